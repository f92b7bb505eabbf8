"""Llama Scope and OpenMOSS's language-model-saes: ``hyperparams.json`` or ``config.json`` with safetensors.

Activations are scaled by ``sqrt(d) / average norm``, one factor for the input and one for the output. Llama Scope's
own files give a threshold for activations in the model's units, so their factors are folded into the weights; OpenMOSS's
current files give thresholds in the scaled space, so there the scaling stays a part of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.checkpoints.base import (
    Adapter,
    Location,
    Sizes,
    flag,
    integer,
    read_safetensors,
    safetensors_header,
    take,
    take_matrix,
)
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, InputScaling, JumpReLU, ReLU, SparseAutoencoder, TopK

_CONFIGS = ("hyperparams.json", "lm_config.json", "config.json")
_WEIGHTS = (
    "checkpoints/final.safetensors", "final.safetensors", "sae_weights.safetensors", "checkpoints/pruned.safetensors",
    "pruned.safetensors",
)  # fmt: skip


class LlamaScope(Adapter):
    """``hyperparams.json`` (or a configuration with ``hook_point_in``) and the weights."""

    name = "llama_scope"
    looks_for = "hyperparams.json, or config.json with hook_point_in, and final.safetensors or sae_weights.safetensors"

    def recognise(self, location: Location) -> bool:
        """By a configuration with ``hook_point_in`` and one of the weight files."""
        if location.file not in (None, *_CONFIGS) or self._weights(location) is None:
            return False
        return self._config_name(location) is not None

    def weights_file(self, location: Location) -> str:
        """The first existing file of the names that the library writes."""
        name = self._weights(location)
        assert name is not None
        return name

    def describe(self, location: Location) -> CheckpointInfo:
        """From the configuration and the header of the weights."""
        config = self._config(location)
        shapes = {key: shape for key, (shape, _) in safetensors_header(location, self.weights_file(location)).items()}
        if "encoder.weight" in shapes:
            (n, d_in), d_out = shapes["encoder.weight"], shapes["decoder.weight"][0]
        elif "W_E" in shapes:
            (d_in, n), d_out = shapes["W_E"], shapes["W_D"][1]
        else:
            raise SaebenchError(f"{location.origin} lacks encoder.weight or W_E; it has: {', '.join(sorted(shapes))}.")
        kind = _function(config, location)
        activation: dict[str, Any] = {"name": kind}
        if kind == "topk":
            activation["k"] = integer(config.get("top_k"), "top_k", location)
        return self.info(
            location,
            Sizes(d_in, n, d_out),
            activation,
            config.get("hook_point_in"),
            scaling="none" if _scaling(config, {}, d_in, d_out, location) is None else "dataset",
            hook_out=config.get("hook_point_out") or config.get("hook_point_in"),
            model=config.get("model_name"),
            training={"llama_scope": {"config": config}},
        )

    def load(self, location: Location) -> SparseAutoencoder:
        """Weights in saebench's layout, with decoder norms folded where the checkpoint requires it."""
        config, info = self._config(location), self.describe(location)
        tensors = read_safetensors(location, self.weights_file(location))
        W_enc, W_dec, b_enc, b_dec = _weights(tensors, location)
        scaling = _scaling(config, tensors, info.d_in, info.d_out, location) or InputScaling()
        if "encoder.weight" in tensors and scaling.kind == "dataset":
            reads, writes = scaling.input_scale, scaling.output_scale
            b_enc, b_dec, W_dec = b_enc / reads, b_dec / writes, W_dec * (reads / writes)
            scaling = InputScaling()
        activation = _activation(config, tensors, info, location)
        if flag(config, "sparsity_include_decoder_norm", location):
            # Active latents are determined on activations times decoder norms.
            norms = W_dec.float().norm(dim=1).to(W_dec.dtype)
            if "W_E" in tensors and isinstance(activation, JumpReLU):  # current files: the value itself excludes the norm
                activation = JumpReLU(activation.threshold / norms, activation.name)
            elif "encoder.weight" in tensors or not isinstance(activation, ReLU):
                W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
        subtract = flag(config, "apply_decoder_bias_to_pre_encoder", location)
        b_pre = b_dec if subtract else None
        return SparseAutoencoder(W_enc, W_dec, b_enc, b_dec, activation, info, b_pre=b_pre, scaling=scaling)

    def _weights(self, location: Location) -> str | None:
        return next((name for name in _WEIGHTS if location.has(name)), None)

    def _config_name(self, location: Location) -> str | None:
        for name in _CONFIGS:
            if location.has(name) and "hook_point_in" in location.json(name):
                return name
        return None

    def _config(self, location: Location) -> dict[str, Any]:
        name = self._config_name(location)
        assert name is not None
        return location.json(name)


def _weights(tensors: dict[str, Tensor], location: Location) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if "encoder.weight" in tensors:
        W_enc, W_dec = take_matrix(tensors, "encoder.weight", location).T, take_matrix(tensors, "decoder.weight", location).T
        names = ("encoder.bias", "decoder.bias")
    else:
        W_enc, W_dec = take(tensors, "W_E", location), take(tensors, "W_D", location)
        names = ("b_E", "b_D")
    b_enc = tensors.get(names[0], torch.zeros(W_enc.shape[1]))
    b_dec = tensors.get(names[1], torch.zeros(W_dec.shape[1]))
    return W_enc, W_dec, b_enc, b_dec


def _check_formula(config: dict[str, Any], location: Location) -> None:
    """Raise ``SaebenchError`` where the configuration asks for a formula that is not read."""
    kind = config.get("sae_type", "sae")
    if kind not in (None, "sae", "transcoder"):
        raise SaebenchError(f"{location.origin} is of OpenMOSS's type {kind!r}; read are sae and transcoder.")
    for key in ("use_glu_encoder", "use_skip_connection"):
        if flag(config, key, location):
            raise SaebenchError(f"{location.origin} has {key}, which saebench does not read.")


def _function(config: dict[str, Any], location: Location) -> str:
    _check_formula(config, location)
    kind = str(config.get("act_fn", "relu")).lower()
    threshold = config.get("jump_relu_threshold")
    if kind == "topk" and threshold:
        return "jumprelu"  # trained with TopK, then given the threshold with the same L0
    if kind in ("relu", "topk", "jumprelu", "batchtopk"):
        return kind
    raise SaebenchError(
        f"{location.origin} has the activation function {kind!r}; supported are relu, topk, jumprelu and batchtopk."
    )


def _activation(config: dict[str, Any], tensors: dict[str, Tensor], info: CheckpointInfo, location: Location) -> Activation:
    kind = _function(config, location)
    if kind == "topk":
        return TopK(integer(config.get("top_k"), "top_k", location))
    if kind == "relu":
        return ReLU()
    logarithm = tensors.get("activation_function.log_jumprelu_threshold")
    if logarithm is not None:
        return JumpReLU(logarithm.exp(), kind)
    threshold = config.get("jump_relu_threshold")
    if not isinstance(threshold, int | float) or threshold <= 0:
        raise SaebenchError(
            f"{location.origin} is a {kind} autoencoder without a threshold: it cannot be used for inference."
        )
    return JumpReLU(torch.full((info.n_latents,), float(threshold)), kind)


def _scaling(
    config: dict[str, Any], tensors: dict[str, Tensor], d_in: int, d_out: int, location: Location
) -> InputScaling | None:
    """Factors from the average norms, in the configuration (older) or among the tensors (current); None without them.

    Raises:
        SaebenchError: the checkpoint scales its input but the average norms are missing.
    """
    mode = config.get("norm_activation")
    if mode == "inference":  # folded already, or never scaled; average norms may still be recorded
        return None
    if mode == "token-wise":
        return InputScaling("constant_norm")
    if mode not in (None, "dataset-wise"):
        raise SaebenchError(f"{location.origin} normalises its input by {mode!r}, which saebench does not support.")
    norms = config.get("dataset_average_activation_norm") or {}
    hooks = (config.get("hook_point_in"), config.get("hook_point_out") or config.get("hook_point_in"))
    found = []
    for side, hook, width in (("in", hooks[0], d_in), ("out", hooks[1], d_out)):
        stored = tensors.get(f"dataset_average_activation_norm.{hook}")
        norm = stored if stored is not None else norms.get(side, norms.get(hook))
        if norm is not None:
            value = float(norm)
            if not 0 < value < float("inf"):
                raise SaebenchError(f"{location.origin} gives {value:g} for the average norm at its {side}put, not above 0.")
            found.append(width**0.5 / value)
    if len(found) == 2:
        return InputScaling("dataset", input_scale=found[0], output_scale=found[1])
    if mode == "dataset-wise" and tensors:
        raise SaebenchError(f"{location.origin} scales its input by its data's average norm, which it does not give.")
    return InputScaling("dataset") if mode == "dataset-wise" else None
