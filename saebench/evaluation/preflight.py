"""Checks that need no weights: a checkpoint's metadata against the language model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saebench.checkpoints.given import open_questions
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.lm.embedded import EMBEDDED_MODELS
from saebench.lm.hooks import Hook, Place
from saebench.lm.loading import read_config
from saebench.sae import CheckpointInfo

MODEL_NAMES = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2b": "google/gemma-2b",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "pythia-160m-deduped": "EleutherAI/pythia-160m-deduped",
}
"""Short names that checkpoints use for models, and their names on the hub."""

_LAYER_NORMS = ("layer_norm_epsilon", "layer_norm_eps", "layer_norm_elementwise_affine", "layernorm_epsilon")
"""Fields of configurations of models with layer norm, which takes the mean off."""

_WIDTH_OF_MODEL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "mlp.hook_in")


def model_name(given: str | LanguageModel | None, infos: Sequence[CheckpointInfo | None]) -> str | LanguageModel:
    """The model to use: the one given, else the one that all checkpoints name.

    Raises:
        SaebenchError: no checkpoint names one, or they name several.
    """
    if given is not None:
        return given
    named = {info.model for info in infos if info is not None and info.model}
    if len(named) > 1:
        raise SaebenchError(
            f"The checkpoints name different language models ({', '.join(sorted(named))}): evaluate them separately."
        )
    if not named:
        raise SaebenchError("The checkpoint does not name its language model: give it with --model.")
    name = named.pop()
    return MODEL_NAMES.get(name, name)


def check_nothing_open(info: CheckpointInfo, model: str | LanguageModel | None, hook: str | None) -> None:
    """Raise ``SaebenchError``, one sentence for all of it, where weights without a configuration leave something open."""
    if not info.missing:
        return
    missing = list(info.missing)
    if info.hook_in is None and hook is None and default_hook(model) is None:
        missing.append("where it reads (--hook, such as blocks.8.hook_resid_post)")
    if info.model is None and model is None:
        missing.append("its language model (--model)")
    raise SaebenchError(open_questions(info.origin, missing))


def default_hook(model: str | LanguageModel | None) -> str | None:
    """Where autoencoders that do not say it are taken to read: an embedded model's own hook; None for other models."""
    return EMBEDDED_MODELS[model].hook if isinstance(model, str) and model in EMBEDDED_MODELS else None


def check_against_config(name: str, info: CheckpointInfo, hooks: tuple[Place, Place]) -> None:
    """Raise ``SaebenchError`` where the model has too few layers or another width than the checkpoint."""
    config = read_config(name)
    check_centring(name, config, info)
    layers, width = _first(config, "num_hidden_layers", "n_layer"), _first(config, "hidden_size", "n_embd")
    sides = ((hooks[0], info.d_in, "reads"), (hooks[1], info.d_out, "writes"))
    for hook, size, does in ((hook, size // len(place.hooks), does) for place, size, does in sides for hook in place.hooks):
        if layers is not None and not 0 <= hook.layer < layers:
            raise SaebenchError(f"{name} has no {hook}: its layers are 0 to {layers - 1}.")
        if width is not None and hook.point in _WIDTH_OF_MODEL and size != width:
            raise SaebenchError(
                f"{info.origin} {does} activations of width {size}, but {name} has {width} at {hook}: "
                "is it the right model and hook?"
            )
        if hook.head is not None:
            _check_head(name, config, hook, info.origin, size)


def _check_head(name: str, config: Any, hook: Hook, origin: str, size: int) -> None:
    """Raise ``SaebenchError`` where the model lacks the attention head, or its heads have another width."""
    heads, width = _first(config, "num_attention_heads", "n_head"), _first(config, "hidden_size", "n_embd")
    d_head = _first(config, "head_dim") or (width // heads if heads and width else None)
    if hook.point in ("attn.hook_k", "attn.hook_v"):
        heads = _first(config, "num_key_value_heads") or heads
    if heads is not None and hook.head is not None and hook.head >= heads:
        raise SaebenchError(f"{name} has no {hook}: its heads there are 0 to {heads - 1}.")
    if d_head is not None and d_head != size:
        raise SaebenchError(f"{origin} has width {size}, but an attention head of {name} has {d_head}.")


def check_centring(name: str, config: Any, info: CheckpointInfo) -> None:
    """Raise ``SaebenchError`` where the checkpoint needs centred activations and the model has no layer norm.

    Args:
        name: of the model; ``config`` is its Hugging Face configuration.
        info: the checkpoint's metadata.
    """
    if info.scaling == "centred" and not any(hasattr(config, key) for key in _LAYER_NORMS):
        raise SaebenchError(
            f"{info.origin} was trained on centred activations (center_writing_weights), which only a model with layer norm "
            f"allows; {name} has another norm."
        )


def check_window(name: str, config: Any, context: int) -> None:
    """Raise ``SaebenchError`` where a row is longer than the positions that the language model was trained with."""
    window = _first(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    if window is not None and context > window:
        raise SaebenchError(
            f"Rows of {context:,} tokens are longer than the {window:,} positions of {name}: use --context {window}."
        )


def _first(config: Any, *names: str) -> int | None:
    return next((int(value) for name in names if isinstance(value := getattr(config, name, None), int)), None)
