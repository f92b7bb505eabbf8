"""What SAEBench's files say about an autoencoder: its configuration where there is one, else what its names tell."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from saebench.errors import plain
from saebench.leaderboard.files import BadFile
from saebench.leaderboard.saebench_files import Measurement

FROM_THE_NAME = "taken from the autoencoder's name: no file of it holds its configuration"
FROM_AN_OPTION = "given by an option of the import: no file of it says it"
LARGEST_SIZE = 2**31

HOOK = re.compile(
    r"blocks\.\d+\.(?:hook_(?:resid_pre|resid_mid|resid_post|mlp_in|mlp_out|attn_in|attn_out)|attn\.hook_z|mlp\.hook_p(?:re|ost))"
)
LAYER = re.compile(r"(resid_pre|resid_mid|resid_post|mlp_out|attn_out)_layer_(\d+)")
GEMMA_SCOPE = re.compile(r"gemma-scope.*-(res|att|mlp)(?:-.*)?")
SCOPE_HOOKS = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"}
WIDTH = re.compile(r"width[_-](?:2pow(\d+)|(\d+)(k|m))(?![a-z0-9])", re.IGNORECASE)
OWNERS = ("google", "EleutherAI")
"""Left out of a model's name, as in most of SAEBench's files: they name the same model with and without them."""
TRAINERS = {
    "StandardTrainer": "standard", "TrainerTopK": "topk", "TopKTrainer": "topk", "GatedSAETrainer": "gated",
    "PAnnealTrainer": "p_anneal", "TrainerJumpRelu": "jumprelu", "JumpReluTrainer": "jumprelu",
}  # fmt: skip
"""Architectures by the trainers of the configurations in SAEBench's oldest files."""


class Described(NamedTuple):
    """An autoencoder; ``unvouched`` says which of its properties are from its name or an option, not from a file."""

    architecture: str
    d_in: int | None
    n_latents: int | None
    hook: str
    unvouched: dict[str, str]


def describe(found: Sequence[Measurement], hook: str | None) -> Described:
    """The autoencoder of these measurements; ``hook`` is used where none of them tells it.

    Raises:
        BadFile: its hook is unknown, or a size in its configuration is not one.
    """
    configs = [_flat(each.config) for each in found]
    unvouched = {}
    n_latents = _size(configs, "d_sae", "dict_size")
    if n_latents is None:
        n_latents = _width(found[0].origin)
        if n_latents is not None:
            unvouched["n_latents"] = FROM_THE_NAME
    place = _hook(configs)
    if place is None:
        place, source = _hook_in(found[0]), FROM_THE_NAME
        if place is None:
            place, source = hook, FROM_AN_OPTION
        unvouched["hook"] = source
    if place is None:
        raise BadFile(f"nothing says at which hook {found[0].origin} is: give it with --hook")
    return Described(
        _architecture(configs), _size(configs, "d_in", "activation_dim"), n_latents, plain(place)[:200], unvouched
    )


def own_model(measurement: Measurement) -> str | None:
    """The language model that an autoencoder was trained on, as its configuration says."""
    return _model(_first([_flat(measurement.config)], "model_name", "lm_name"))


def evaluated_model(measurement: Measurement) -> str | None:
    """The language model that an autoencoder was evaluated on, as the evaluation's settings say."""
    return _model(_first([measurement.settings], "model_name"))


def _model(name: str | None) -> str | None:
    owner, _, rest = name.partition("/") if name else ("", "", "")
    return rest if owner in OWNERS and rest else name


def short(model: str) -> str:
    """A model's name without its owner, to compare it."""
    return model.rpartition("/")[2].lower() or model


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with its ``metadata``, which SAELens 6 writes as a group."""
    metadata = config.get("metadata")
    return {**(metadata if isinstance(metadata, dict) else {}), **config}


def _first(configs: Sequence[dict[str, Any]], *keys: str) -> str | None:
    values = (config.get(key) for config in configs for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _size(configs: Sequence[dict[str, Any]], *keys: str) -> int | None:
    found: int | None = None
    for config in configs:
        for key in keys:
            value = config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < LARGEST_SIZE:
                raise BadFile(f"its sae_cfg_dict.{key} is {plain(repr(value))[:40]}, not a size")
            if found is not None and found != value:
                raise BadFile(f"its sae_cfg_dict.{key} is {value}, but another file of the same autoencoder says {found}")
            found = value
    return found


def _architecture(configs: Sequence[dict[str, Any]]) -> str:
    named = _first(configs, "architecture")
    activation = _first(configs, "activation_fn_str", "activation_fn")
    if named in (None, "standard") and activation in ("topk", "batchtopk", "jumprelu"):
        return str(activation)
    trainer = _first(configs, "trainer_class")
    return plain(named or TRAINERS.get(trainer or "", trainer) or "unknown")[:100]


def _hook(configs: Sequence[dict[str, Any]]) -> str | None:
    given = [_first([each], "hook_name", "hook_point") or _submodule(_first([each], "submodule_name")) for each in configs]
    hooks = [each for each in given if each is not None]
    if len(set(hooks)) > 1:
        raise BadFile(
            f"its hook is {plain(hooks[-1])[:200]}, but another file of the same autoencoder says {plain(hooks[0])[:200]}"
        )
    return hooks[0] if hooks else None


def _submodule(name: str | None) -> str | None:
    found = LAYER.fullmatch(name) if name else None
    return f"blocks.{found[2]}.hook_{found[1]}" if found else None


def _hook_in(found: Measurement) -> str | None:
    """``blocks.N.hook_...`` in the name, ``resid_post_layer_N``, or Gemma Scope's ``layer_N`` with the release's kind."""
    plainly = HOOK.search(found.origin)
    if plainly:
        return plainly[0]
    layer = LAYER.search(found.origin)
    if layer:
        return f"blocks.{layer[2]}.hook_{layer[1]}"
    scope, number = GEMMA_SCOPE.fullmatch(found.release), re.match(r"layer_(\d+)/", found.sae_id)
    return f"blocks.{number[1]}.{SCOPE_HOOKS[scope[1]]}" if scope and number else None


def _width(name: str) -> int | None:
    """The width in a name: ``2pow14``, or ``16k`` and ``1m``, which stand for the nearest power of two."""
    found = WIDTH.search(name)
    if found is None:
        return None
    if found[1]:
        exponent = int(found[1]) if len(found[1]) < 3 else 99
    else:
        amount = int(found[2][:9]) * (1000 if found[3].lower() == "k" else 10**6)
        exponent = round(math.log2(amount)) if amount else 99
    return 2**exponent if exponent < 31 else None
