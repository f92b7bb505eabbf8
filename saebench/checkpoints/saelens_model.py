"""What SAELens did to the language model before training on it: applied where it changes activations, or refused.

``model_from_pretrained_kwargs`` are settings of TransformerLens. They rewrite the model's weights without changing its
predictions, but some change the activations that an autoencoder reads.
"""

from __future__ import annotations

from typing import Any

from saebench.checkpoints.base import Location, integer
from saebench.errors import SaebenchError
from saebench.lm.hooks import HEAD_POINTS, Hook, parse_hook

_WRITTEN = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Points that hold what writing weights wrote."""
_UNCHANGED_BY_FOLDING = (*_WRITTEN, *HEAD_POINTS, "mlp.hook_pre", "mlp.hook_post")
_HOLDS_VALUES = ("attn.hook_v", "attn.hook_z")
_WITHOUT_EFFECT = (
    "center_unembed", "dtype", "torch_dtype", "device", "device_map", "n_devices", "move_to_device", "trust_remote_code",
    "local_files_only", "token", "default_padding_side", "default_prepend_bos", "attn_implementation", "low_cpu_mem_usage",
    "cache_dir",
)  # fmt: skip
"""Settings that change no activation beyond rounding."""


def find_places(config: dict[str, Any], location: Location) -> tuple[str | None, str | None]:
    """Where it reads and where it writes; a single attention head is part of the hook's name.

    Raises:
        SaebenchError: the head's number is none, the hook has no heads, or the input is reshaped in an unknown way.
    """
    reads, writes = config.get("hook_name") or config.get("hook_point"), config.get("hook_name_out")
    reshape = config.get("reshape_activations", "none")
    if reshape not in ("none", "hook_z", None):
        raise SaebenchError(f"{location.origin} reshapes its input by {reshape!r}, which saebench does not know.")
    hook = _with_head(reads, config, ("hook_head_index", "hook_point_head_index"), location)
    return hook, _with_head(writes, config, ("hook_head_index_out",), location) if writes else hook


def _with_head(hook: Any, config: dict[str, Any], keys: tuple[str, ...], location: Location) -> Any:
    key = next((key for key in keys if config.get(key) is not None), None)
    if key is None:
        return hook
    head = integer(config[key], key, location)
    if head < 0 or not isinstance(hook, str):
        raise SaebenchError(
            f"{location.origin} gives {head} for {key} of the hook {hook}; it needs a hook and a head of it."
        )
    try:
        return parse_hook(f"{hook}.head_{head}").name
    except SaebenchError as error:
        raise SaebenchError(f"{location.origin} reads the single attention head {head} ({key}): {error}") from error


def is_centred(config: dict[str, Any], hooks: tuple[str | None, str | None], location: Location) -> bool:
    """Whether the model's writing weights were centred where the autoencoder reads and writes.

    Centred weights remove the mean over ``d_model`` from everything that is written to the residual stream. A model with
    layer norm never sees that mean, so the same autoencoder serves the plain model once the mean is taken off its input
    and added to its reconstruction.

    Raises:
        SaebenchError: a setting changes activations in a way that is not applied here.
    """
    settings = config.get("model_from_pretrained_kwargs") or {}
    if not isinstance(settings, dict):
        raise SaebenchError(
            f"model_from_pretrained_kwargs of {location.origin} is a {type(settings).__name__}, not an object."
        )
    wanted = {key: value for key, value in settings.items() if value not in (None, False)}
    points = [parse_hook(hook) for hook in hooks if hook is not None]
    for key in ("fold_ln", "fold_value_biases"):
        changed = () if key == "fold_ln" else _HOLDS_VALUES
        allowed = [point for point in _UNCHANGED_BY_FOLDING if point not in changed]
        if key in wanted and not all(point.point in allowed for point in points):
            raise _refused(key, points, location)
    known = (*_WITHOUT_EFFECT, "fold_ln", "fold_value_biases", "center_writing_weights")
    for key in wanted:
        if key not in known:
            raise _refused(key, points, location)
    if "center_writing_weights" not in wanted:
        return False
    written = [point.point in _WRITTEN for point in points]
    if written and any(written) != all(written):
        raise _refused("center_writing_weights", points, location)
    return all(written)


def _refused(key: str, points: list[Hook], location: Location) -> SaebenchError:
    places = " and ".join(dict.fromkeys(point.name for point in points)) or "an unknown hook"
    return SaebenchError(
        f"{location.origin} was trained on a model that was loaded with {key}, which can change the activations at {places}"
        ": saebench cannot apply that, so its numbers would be wrong."
    )
