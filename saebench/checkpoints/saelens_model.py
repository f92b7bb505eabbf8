"""What SAELens did to the language model before training on it: applied where it changes activations, or refused.

``model_from_pretrained_kwargs`` are settings of TransformerLens. They rewrite the model's weights without changing its
predictions, but some change the activations that an autoencoder reads.
"""

from __future__ import annotations

from typing import Any

from saebench.checkpoints.base import Location
from saebench.errors import SaebenchError
from saebench.lm.hooks import Hook, parse_hook

_WRITTEN = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Points that hold what writing weights wrote."""
_UNCHANGED_BY_FOLDING = (*_WRITTEN, "attn.hook_z", "mlp.hook_post")
_WITHOUT_EFFECT = (
    "center_unembed", "dtype", "torch_dtype", "device", "device_map", "n_devices", "move_to_device", "trust_remote_code",
    "local_files_only", "token", "default_padding_side", "default_prepend_bos", "attn_implementation", "low_cpu_mem_usage",
    "cache_dir",
)  # fmt: skip
"""Settings that change no activation beyond rounding."""


def check_places(config: dict[str, Any], location: Location) -> None:
    """Raise ``SaebenchError`` where it reads only a part of what its hook holds, which saebench cannot cut out."""
    for key in ("hook_head_index", "hook_point_head_index", "hook_head_index_out"):
        if config.get(key) is not None:
            raise SaebenchError(
                f"{location.origin} reads the single attention head {config[key]} ({key}); saebench evaluates autoencoders "
                "of whole hooks only."
            )
    reshape = config.get("reshape_activations", "none")
    if reshape not in ("none", "hook_z", None):
        raise SaebenchError(f"{location.origin} reshapes its input by {reshape!r}, which saebench does not know.")


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
        allowed = (
            _UNCHANGED_BY_FOLDING if key == "fold_ln" else tuple(p for p in _UNCHANGED_BY_FOLDING if p != "attn.hook_z")
        )
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
