"""SAELens, version 6 and later, and the flat configurations of earlier versions.

A folder with ``cfg.json`` and ``sae_weights.safetensors``. Facts from the library's own code; see its documentation for
the meaning of the configuration's fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from saebench.checkpoints.base import Location, PairAdapter, Sizes, flag, integer, read_safetensors, take, take_matrix
from saebench.checkpoints.saelens_model import find_places, is_centred
from saebench.checkpoints.saelens_temporal import load_temporal, temporal_activation
from saebench.errors import SaebenchError
from saebench.sae import (
    Activation,
    CheckpointInfo,
    Gated,
    InputScaling,
    JumpReLU,
    MatchingPursuit,
    ReLU,
    SparseAutoencoder,
    TopK,
)
from saebench.sae.scaling import ScalingKind

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"

_ARCHITECTURES = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "abstopk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "batchtopk",
    "matching_pursuit": "matching_pursuit",
    "temporal": "temporal",
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
        tied = _is_tied(config)
        needed = ("W_dec",) if tied else ("W_dec", "W_enc")
        shapes = self.header(location, *needed)
        for name in needed:
            if len(shapes[name][0]) != 2:
                raise SaebenchError(f"{name} of {location.origin} has shape {list(shapes[name][0])}; a matrix is needed.")
        (d_in, n), dtype = (shapes["W_dec"][0][::-1], shapes["W_dec"][1]) if tied else shapes["W_enc"]
        metadata = config.metadata
        hook, hook_out = config.hooks
        architecture = _ARCHITECTURES[config.architecture]
        return self.info(
            location,
            Sizes(d_in, n, shapes["W_dec"][0][1]),
            {"name": architecture, **_settings(config, d_in, location)},
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
        scaling = _scaling(config, cast(ScalingKind, info.scaling), location)
        if config.architecture == "temporal":
            return load_temporal(config.raw, tensors, scaling, info, location)
        W_dec = take(tensors, "W_dec", location)
        W_enc = W_dec.T if _is_tied(config) else take(tensors, "W_enc", location)
        b_dec = take(tensors, "b_dec", location)
        gated = config.architecture == "gated"
        subtract = flag(config.raw, "apply_b_dec_to_input", location, "transcoder" not in config.architecture)
        if config.architecture == "matching_pursuit":  # of one bias: added where it was subtracted, and no other
            b_enc, b_dec = W_dec.new_zeros(W_dec.shape[0]), b_dec if subtract else torch.zeros_like(b_dec)
        else:
            b_enc = take(tensors, "b_gate" if gated else "b_enc", location)
        if flag(config.raw, "rescale_acts_by_decoder_norm", location):
            # The library multiplies pre-activations by the decoder's norms and divides before decoding. The same latents
            # and reconstructions result from weights that include the norms.
            norms = W_dec.float().norm(dim=1).to(W_dec.dtype)
            W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
        W_dec = _with_finetuned_scale(W_dec, config, tensors, location)
        return SparseAutoencoder(
            W_enc=W_enc,
            W_dec=W_dec,
            b_enc=b_enc,
            b_dec=b_dec,
            b_pre=b_dec if subtract else None,
            W_skip=take_matrix(tensors, "W_skip", location).T if "W_skip" in tensors else None,
            activation=_activation(config, tensors, location),
            scaling=scaling,
            info=info,
        )


def _is_tied(config: _Config) -> bool:
    """Whether the encoder is the decoder's transpose."""
    tied = config.architecture == "temporal" and config.raw.get("tied_weights", True)
    return bool(tied) or config.architecture == "matching_pursuit"


def _settings(config: _Config, d_in: int, location: Location) -> dict[str, Any]:
    """The activation function's settings, as far as the configuration has them."""
    if config.architecture == "matching_pursuit":
        return _pursuit(config, d_in, location).describe()
    if config.architecture == "temporal":
        return {"encodes": temporal_activation(config.raw, location).describe()}
    return {} if config.k is None else {"k": config.k}


def _pursuit(config: _Config, d_in: int, location: Location) -> MatchingPursuit:
    """Matching pursuit with SAELens's defaults."""
    most, threshold = config.raw.get("max_iterations"), config.raw.get("residual_threshold", 1e-2)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise SaebenchError(f"{location.origin} gives {threshold!r} for residual_threshold; a number is needed.")
    most = d_in if most is None else integer(most, "max_iterations", location)
    return MatchingPursuit(float(threshold), most, bool(config.raw.get("stop_on_duplicate_support", True)))


def _activation(config: _Config, tensors: dict[str, Tensor], location: Location) -> Activation:
    kind = config.architecture
    if kind == "matching_pursuit":
        return _pursuit(config, take(tensors, "W_dec", location).shape[1], location)
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
    if not flag(config.raw, "finetuning_scaling_factor", location) or factor.shape != W_dec.shape[:1]:
        raise SaebenchError(
            f"{location.origin} holds a scaling_factor that its {CONFIG} does not mention: its meaning is unknown."
        )
    return W_dec * factor[:, None]


def _kind(config: _Config, location: Location) -> ScalingKind:
    """The type of scaling, with centred writing weights as a part of it."""
    kind = _SCALINGS[config.normalize]
    centred = is_centred(config.raw | config.metadata, config.hooks, location)
    if not centred or kind == "layer_norm":  # which takes the mean off itself
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
