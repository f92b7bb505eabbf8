"""dictionary_learning: ``ae.pt`` and ``config.json`` with a ``trainer`` section."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from saebench.checkpoints.base import Location, PairAdapter, Sizes, integer, read_torch, take, take_matrix
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, Gated, JumpReLU, ReLU, SparseAutoencoder, TopK

CONFIG, WEIGHTS = "config.json", "ae.pt"
_STEP = re.compile(r"checkpoints/ae_\d+\.pt")
"""Checkpoints of steps, in a folder below the configuration; biases are in the model's units already, as in ``ae.pt``."""

_ARCHITECTURES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "JumpReluAutoEncoder": "jumprelu",
}


class DictionaryLearning(PairAdapter):
    """``ae.pt`` and ``config.json``."""

    name = "dictionary_learning"
    looks_for = f"{WEIGHTS} and {CONFIG} with a trainer section"
    config, weights = CONFIG, WEIGHTS

    def recognise(self, location: Location) -> bool:
        """By its two files and the section ``trainer``; crosscoders are read as weights alone."""
        named = location.file in (None, CONFIG, WEIGHTS) or _STEP.fullmatch(str(location.file))
        if not (location.has(CONFIG) and location.has(self.weights_file(location)) and named):
            return False
        trainer = location.json(CONFIG).get("trainer")
        return isinstance(trainer, dict) and "CrossCoder" not in str(trainer.get("dict_class"))

    def weights_file(self, location: Location) -> str:
        """``ae.pt``, or the checkpoint of a step that the user named."""
        return _weights(location)

    def describe(self, location: Location) -> CheckpointInfo:
        """From the configuration alone."""
        trainer = _trainer(location)
        kind = _kind(trainer, location)
        d, n = (integer(trainer.get(key), key, location) for key in ("activation_dim", "dict_size"))
        layer = trainer.get("layer")
        hook = trainer.get("submodule_name") or (None if layer is None else f"resid_post_layer_{layer}")
        buffer = location.json(CONFIG).get("buffer") or {}
        if isinstance(buffer, dict) and buffer.get("io", "out") != "out":
            hook = None  # the submodule's input was read, whose name the file does not hold: the user is asked
        activation: dict[str, Any] = {"name": _ARCHITECTURES[kind]}
        if "k" in trainer:
            activation["k"] = integer(trainer["k"], "k", location)
        sizes = trainer.get("group_sizes")
        return self.info(
            location,
            Sizes(d, n, d),
            activation,
            hook,
            model=trainer.get("lm_name"),
            context=buffer.get("ctx_len") if isinstance(buffer, dict) else None,
            group_sizes=tuple(int(size) for size in sizes) if sizes else None,
            training={"dictionary_learning": {"trainer": trainer}},
        )

    def load(self, location: Location) -> SparseAutoencoder:
        """From the state dict, by the class that wrote it."""
        kind = _kind(_trainer(location), location)
        tensors, factor = _state(location)
        info = self.describe(location)
        parts = _parts(kind, tensors, location)
        if factor is not None:
            for name in ("b_enc", "b_dec", "b_pre"):
                bias = parts[name]
                parts[name] = None if bias is None else bias * factor
        activation = _activation(kind, tensors, parts, info, location, factor or 1.0)
        return SparseAutoencoder(**parts, activation=activation, info=info)  # type: ignore[arg-type]


def _weights(location: Location) -> str:
    return location.file if location.file is not None and _STEP.fullmatch(location.file) else WEIGHTS


def _trainer(location: Location) -> dict[str, Any]:
    trainer: dict[str, Any] = location.json(CONFIG)["trainer"]
    return trainer


def _kind(trainer: dict[str, Any], location: Location) -> str:
    kind = str(trainer.get("dict_class", ""))
    if kind not in _ARCHITECTURES:
        raise SaebenchError(
            f"{location.origin} is of dictionary_learning's class {kind!r}; supported are: {', '.join(_ARCHITECTURES)}."
        )
    return kind


def _state(location: Location) -> tuple[dict[str, Tensor], float | None]:
    """``(tensors, factor for the biases)``: an interrupted run leaves biases in the scale of normalised activations."""
    name = _weights(location)
    state = read_torch(location, name)
    if not isinstance(state, dict):
        raise SaebenchError(f"{name} of {location.origin} holds a {type(state).__name__}, not a state dict.")
    if "ae" not in state:
        return state, None
    factor = state.get("norm_factor")
    if factor is None:
        raise SaebenchError(
            f"{name} of {location.origin} is of an interrupted run and lacks the norm_factor that its biases need."
        )
    return state["ae"], float(factor)


def _parts(kind: str, tensors: dict[str, Tensor], location: Location) -> dict[str, Tensor | None]:
    """The common layout of a class's tensors."""

    def get(name: str) -> Tensor:
        return take(tensors, name, location)

    if kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        b_dec = get("b_dec")
        subtracts = kind == "MatryoshkaBatchTopKSAE"
        return {"W_enc": get("W_enc"), "W_dec": get("W_dec"), "b_enc": get("b_enc"), "b_dec": b_dec,
                "b_pre": b_dec if subtracts else None}  # fmt: skip
    W_enc, W_dec = (take_matrix(tensors, f"{name}.weight", location).T for name in ("encoder", "decoder"))
    if kind == "GatedAutoEncoder":
        b_dec, b_enc = get("decoder_bias"), get("gate_bias")
    else:
        b_dec = get({"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec"))
        b_enc = get("encoder.bias")
    return {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": b_enc,
        "b_dec": b_dec,
        "b_pre": None if kind == "AutoEncoderNew" else b_dec,
    }


def _activation(
    kind: str,
    tensors: dict[str, Tensor],
    parts: dict[str, Tensor | None],
    info: CheckpointInfo,
    location: Location,
    factor: float,
) -> Activation:
    if kind == "AutoEncoderTopK":
        return TopK(integer(tensors.get("k", info.activation.get("k")), "k", location))
    if kind == "GatedAutoEncoder":
        gate = parts["b_enc"]
        assert gate is not None
        return Gated(take(tensors, "r_mag", location), take(tensors, "mag_bias", location) * factor, gate)
    if kind == "JumpReluAutoEncoder":
        return JumpReLU(take(tensors, "threshold", location) * factor)
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = float(take(tensors, "threshold", location))
        if threshold < 0:
            raise SaebenchError(
                f"{location.origin} is a BatchTopK autoencoder whose threshold was never set ({threshold:g}): train it past "
                "the step at which its library starts to learn one."
            )
        return JumpReLU(torch.full((info.n_latents,), threshold * factor), info.architecture)
    return ReLU()
