"""SAELens, version 6 and later, and the flat configurations of earlier versions.

A folder with ``cfg.json`` and ``sae_weights.safetensors``. Facts from the library's own code; see its documentation for
the meaning of the configuration's fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from saebench.checkpoints.base import Location, PairAdapter, Sizes, integer, read_safetensors, take
from saebench.checkpoints.saelens_model import find_places, is_centred
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, Gated, InputScaling, JumpReLU, ReLU, SparseAutoencoder, TopK
from saebench.sae.scaling import ScalingKind

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"

_ARCHITECTURES = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "abstopk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "matryoshka",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_SCALINGS: dict[str, ScalingKind] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
    "expected_average_only_in": "dataset",
    "constant_scalar_rescale": "dataset",
}


@dataclass(frozen=True)
class _Config:
    """The relevant fields, from any version."""

    raw: dict[str, Any]
    metadata: dict[str, Any]
    architecture: str
    k: int | None
    normalize: str
    hooks: tuple[str | None, str | None]

    @staticmethod
    def read(location: Location) -> _Config:
        raw = location.json(CONFIG)
        metadata = raw["metadata"] if isinstance(raw.get("metadata"), dict) else raw
        architecture = str(raw.get("architecture", "standard"))
        kwargs = raw.get("activation_fn_kwargs") or {}
        # Before version 6 the activation function was a separate field, and "standard" could mean TopK.
        function = raw.get("activation_fn") or raw.get("activation_fn_str") or ""
        if function == "topk" and architecture == "standard":
            architecture = "topk"
        _check_function(function, kwargs, architecture, location)
        hooks = find_places(raw | metadata, location)
        k = raw.get("k", kwargs.get("k"))
        normalize = raw.get("normalize_activations", "none")
        if isinstance(normalize, bool) or normalize is None:
            normalize = "expected_average_only_in" if normalize else "none"
        if architecture not in _ARCHITECTURES:
            raise SaebenchError(
                f"{location.origin} is a SAELens checkpoint of the architecture {architecture!r}; supported are: "
                f"{', '.join(_ARCHITECTURES)}."
            )
        if normalize not in _SCALINGS:
            raise SaebenchError(f"{location.origin} normalises its input by {normalize!r}, which saebench does not support.")
        if architecture in ("topk", "abstopk") and k is None:
            raise SaebenchError(f"{location.origin} is a TopK autoencoder, but its cfg.json gives no k.")
        return _Config(raw, metadata, architecture, None if k is None else integer(k, "k", location), normalize, hooks)


def _check_function(function: Any, kwargs: Any, architecture: str, location: Location) -> None:
    """Raise ``SaebenchError`` where the activation function is not the architecture's own, or has settings of its own."""
    if function and function != ("topk" if architecture == "topk" else "relu"):
        raise SaebenchError(
            f"{location.origin} has the activation function {function!r} in the architecture {architecture!r}; "
            "saebench reads relu and topk."
        )
    unknown = sorted(kwargs.keys() - {"k"})
    if unknown:
        raise SaebenchError(
            f"{location.origin} gives its activation function the setting {unknown[0]!r}, which saebench does not know."
        )


class SAELens(PairAdapter):
    """``cfg.json`` and ``sae_weights.safetensors``."""

    name = "saelens"
    looks_for = f"{CONFIG} and {WEIGHTS}"
    config, weights = CONFIG, WEIGHTS

    def describe(self, location: Location) -> CheckpointInfo:
        """From the configuration and the header of the weights."""
        config = _Config.read(location)
        shapes = self.header(location, "W_enc", "W_dec")
        (d_in, n), dtype = shapes["W_enc"]
        metadata = config.metadata
        hook, hook_out = config.hooks
        architecture = _ARCHITECTURES[config.architecture]
        return self.info(
            location,
            Sizes(d_in, n, shapes["W_dec"][0][1]),
            {"name": architecture} | ({"k": config.k} if config.k is not None else {}),
            hook,
            scaling=_kind(config, location),
            hook_out=hook_out,
            model=metadata.get("model_name"),
            context=metadata.get("context_size"),
            prepend_bos=metadata.get("prepend_bos"),
            dtype=dtype,
            training={"saelens": {"config": config.raw}},
        )

    def load(self, location: Location) -> SparseAutoencoder:
        """Weights in their own layout; decoder norms and biases converted to saebench's."""
        config = _Config.read(location)
        info = self.describe(location)
        tensors = read_safetensors(location, WEIGHTS)
        W_enc, W_dec = take(tensors, "W_enc", location), take(tensors, "W_dec", location)
        b_dec = take(tensors, "b_dec", location)
        gated = config.architecture == "gated"
        b_enc = take(tensors, "b_gate" if gated else "b_enc", location)
        if config.raw.get("rescale_acts_by_decoder_norm"):
            # The library multiplies pre-activations by the decoder's norms and divides before decoding. The same latents
            # and reconstructions result from weights that include the norms.
            norms = W_dec.float().norm(dim=1).to(W_dec.dtype)
            W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
        W_dec = _with_finetuned_scale(W_dec, config, tensors, location)
        subtract = bool(config.raw.get("apply_b_dec_to_input", "transcoder" not in config.architecture))
        return SparseAutoencoder(
            W_enc=W_enc,
            W_dec=W_dec,
            b_enc=b_enc,
            b_dec=b_dec,
            b_pre=b_dec if subtract else None,
            W_skip=tensors["W_skip"].T if "W_skip" in tensors else None,
            activation=_activation(config, tensors, location),
            scaling=_scaling(config, cast(ScalingKind, info.scaling), location),
            info=info,
        )


def _activation(config: _Config, tensors: dict[str, Tensor], location: Location) -> Activation:
    kind = config.architecture
    if kind in ("topk", "abstopk"):
        assert config.k is not None
        return TopK(config.k, signed=kind == "abstopk")
    if "jumprelu" in kind:
        return JumpReLU(take(tensors, "threshold", location).contiguous())
    if kind == "gated":
        gate, r_mag, b_mag = (take(tensors, name, location) for name in ("b_gate", "r_mag", "b_mag"))
        return Gated(r_mag, b_mag, gate)
    if "batchtopk" in kind:
        threshold = float(take(tensors, "topk_threshold", location))
        if threshold <= 0:
            raise SaebenchError(
                f"{location.origin} is a BatchTopK training checkpoint whose threshold was never set ({threshold}): "
                "train it further, or save it for inference."
            )
        latents = take(tensors, "W_enc", location).shape[1]
        return JumpReLU(torch.full((latents,), threshold), "matryoshka" if "matryoshka" in kind else "batchtopk")
    return ReLU()


def _with_finetuned_scale(W_dec: Tensor, config: _Config, tensors: dict[str, Tensor], location: Location) -> Tensor:
    """Before version 6 a factor per latent could be trained afterwards; decoding multiplies by it. All ones mean none."""
    factor = tensors.get("finetuning_scaling_factor", tensors.get("scaling_factor"))
    if factor is None or bool((factor == 1).all()):
        return W_dec
    if not config.raw.get("finetuning_scaling_factor") or factor.shape != W_dec.shape[:1]:
        raise SaebenchError(
            f"{location.origin} holds a scaling_factor that its {CONFIG} does not mention: its meaning is unknown."
        )
    return W_dec * factor[:, None]


def _kind(config: _Config, location: Location) -> ScalingKind:
    """The type of scaling, with centred writing weights as a part of it."""
    kind = _SCALINGS[config.normalize]
    if not is_centred(config.raw | config.metadata, config.hooks, location) or kind == "layer_norm":  # it takes the mean off itself
        return kind
    if kind == "constant_norm":
        raise SaebenchError(
            f"{location.origin} scales centred activations to a constant norm; saebench knows either of these, not both."
        )
    return "centred"


def _scaling(config: _Config, kind: ScalingKind, location: Location) -> InputScaling:
    if _SCALINGS[config.normalize] != "dataset":
        return InputScaling(kind)
    given = config.raw.get("activation_normalization_factor") if config.normalize == "constant_scalar_rescale" else None
    if given is None and location.has(SCALER):
        given = location.json(SCALER).get("scaling_factor")
    if given is None:
        raise SaebenchError(
            f"{location.origin} scales its input by a factor of its training data ({config.normalize}) that is neither "
            f"folded into the weights nor stored in {SCALER}: save it with the factor folded in."
        )
    return InputScaling(kind, input_scale=float(given), output_scale=float(given))
