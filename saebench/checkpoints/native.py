"""saebench's own format: ``sae.json`` (metadata and training record) and ``sae.safetensors`` (the weights).

The encoder is stored as ``[n, d_in]``, so that the rows of a chunk of latents are contiguous in the file: a dictionary of a
million latents is memory-mapped and read in chunks.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.checkpoints.base import Location, PairAdapter, flag, integer, read_safetensors, take, take_matrix
from saebench.checkpoints.checked import check_info
from saebench.errors import SaebenchError
from saebench.files import write_safetensors, write_text
from saebench.sae import (
    Activation,
    AttentionLayer,
    CheckpointInfo,
    Gated,
    GroupMax,
    InputScaling,
    JumpReLU,
    MatchingPursuit,
    ProLU,
    ReLU,
    SparseAutoencoder,
    TemporalContext,
    TopK,
)

CONFIG, WEIGHTS = "sae.json", "sae.safetensors"
FORMAT_VERSION = 1


class Native(PairAdapter):
    """The format written by ``saebench train`` and ``saebench convert``."""

    name = "saebench"
    looks_for = f"{CONFIG} and {WEIGHTS}"
    config, weights = CONFIG, WEIGHTS

    def describe(self, location: Location) -> CheckpointInfo:
        """From the JSON file; the number of latents must be that of the weights' header."""
        config = location.json(CONFIG)
        if config.get("format_version") != FORMAT_VERSION:
            raise SaebenchError(
                f"{location.origin} is of version {config.get('format_version')!r} of the saebench format; only "
                f"{FORMAT_VERSION} is read."
            )
        known = config.get("sae")
        if not isinstance(known, dict):
            raise SaebenchError(f"{CONFIG} of {location.origin} has no object sae.")
        sizes = known.get("group_sizes")
        if sizes is not None and not isinstance(sizes, list):
            raise SaebenchError(f"{CONFIG} of {location.origin} gives {sizes!r} for group_sizes; a list is needed.")
        try:
            known = {**known, "group_sizes": None if sizes is None else tuple(sizes)}
            info = CheckpointInfo(origin=location.origin, format=self.name, training=config.get("training", {}), **known)
        except (KeyError, TypeError, ValueError) as error:
            raise SaebenchError(f"{CONFIG} of {location.origin} is incomplete: {error}.") from error
        shape, _ = self.header(location, "W_dec")["W_dec"]
        claimed = info.n_latents
        if type(claimed) is int and claimed > 0 and claimed != shape[0]:
            raise SaebenchError(f"{location.origin} gives {claimed:,} for n_latents, but its weights have {shape[0]:,}.")
        return info

    def load(self, location: Location) -> SparseAutoencoder:
        """Memory-mapped weights."""
        info = check_info(self.describe(location))
        tensors = read_safetensors(location, WEIGHTS)
        scaling = location.json(CONFIG).get("scaling", {})
        return SparseAutoencoder(
            W_enc=take_matrix(tensors, "encoder", location).T,
            W_dec=take(tensors, "W_dec", location),
            b_enc=take(tensors, "b_enc", location),
            b_dec=take(tensors, "b_dec", location),
            b_pre=tensors.get("b_pre"),
            W_skip=tensors.get("W_skip"),
            activation=_activation(info, tensors, location),
            scaling=InputScaling(**scaling),
            info=info,
            context=_context(location, info, tensors, InputScaling(**scaling)),
        )


def save_native(sae: SparseAutoencoder, folder: str | Path, training: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder in saebench's own format, each file atomically and the JSON last.

    Args:
        sae: the autoencoder.
        folder: its path; created where it is missing.
        training: the full training record, as JSON data; the autoencoder's own by default.

    Raises:
        SaebenchError: the folder cannot be written.
    """
    folder = Path(folder)
    text = native_config(sae, training)
    write_safetensors(native_tensors(sae), folder, WEIGHTS)
    write_text(folder / CONFIG, text)
    return folder


def native_tensors(sae: SparseAutoencoder) -> dict[str, Tensor]:
    """The content of ``sae.safetensors``."""
    tensors = {name: tensor for name, tensor in sae.tensors() if name != "W_enc"}
    return tensors | {"encoder": sae.W_enc.T}


def native_config(sae: SparseAutoencoder, training: dict[str, Any] | None = None) -> str:
    """The content of ``sae.json``.

    Raises:
        SaebenchError: the training record is not JSON data.
    """
    info = replace(sae.info, dtype=str(sae.W_dec.dtype).removeprefix("torch."), activation=_described(sae.activation))
    kept = ("origin", "format", "weights_sha256", "training", "missing", *(() if info.assumed else ("assumed",)))
    config = {
        "format_version": FORMAT_VERSION,
        "sae": {key: value for key, value in asdict(info).items() if key not in kept},
        "scaling": asdict(sae.scaling),
        "training": sae.info.training if training is None else training,
    }
    if sae.context is not None:
        config["attention"] = {"layers": len(sae.context.layers), "heads": sae.context.heads}
    try:
        return json.dumps(config, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise SaebenchError(f"The training record cannot be written as JSON: {error}.") from error


def _pursuit(info: CheckpointInfo, location: Location) -> MatchingPursuit:
    threshold, stops = info.activation.get("threshold"), info.activation.get("stop_on_repeat")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not isinstance(stops, bool):
        raise SaebenchError(
            f"{location.origin} gives {threshold!r} for threshold and {stops!r} for stop_on_repeat; a number and true or "
            "false are needed."
        )
    return MatchingPursuit(float(threshold), integer(info.activation.get("iterations"), "iterations", location), stops)


def _context(
    location: Location, info: CheckpointInfo, tensors: dict[str, Tensor], scaling: InputScaling
) -> TemporalContext | None:
    """What a temporal autoencoder needs of earlier tokens: its own encoder and decoder, and attention."""
    attention = location.json(CONFIG).get("attention")
    if attention is None:
        return None
    if not isinstance(attention, dict):
        raise SaebenchError(f"{CONFIG} of {location.origin} gives {attention!r} for attention; an object is needed.")
    names = [each.name for each in fields(AttentionLayer)]
    layers = tuple(
        AttentionLayer(**{name: take(tensors, f"attention.{number}.{name}", location) for name in names})
        for number in range(integer(attention.get("layers"), "attention.layers", location))
    )
    encoder, b_pre = take(tensors, "encoder", location), tensors.get("b_pre")
    return TemporalContext(
        W_enc=encoder.T[: info.d_in],
        W_dec=take(tensors, "W_dec", location),
        b_pre=None if b_pre is None else b_pre[: info.d_in],
        scaling=scaling,
        layers=layers,
        heads=integer(attention.get("heads"), "attention.heads", location),
    )


def _described(activation: Activation) -> dict[str, Any]:
    return {"kind": type(activation).__name__, **activation.describe()}


def _activation(info: CheckpointInfo, tensors: dict[str, Tensor], location: Location) -> Activation:
    kind = info.activation.get("kind")
    if kind == "ReLU":
        return ReLU()
    if kind == "TopK":
        described = info.activation
        return TopK(int(described["k"]), flag(described, "relu", location, True), flag(described, "signed", location))
    if kind == "GroupMax":
        return GroupMax(int(info.activation["k"]))
    if kind == "JumpReLU":
        return JumpReLU(take(tensors, "threshold", location), str(info.activation.get("name", "jumprelu")))
    if kind == "Gated":
        r_mag, b_mag = take(tensors, "r_mag", location), take(tensors, "b_mag", location)
        return Gated(r_mag, b_mag, take(tensors, "b_enc", location))
    if kind == "MatchingPursuit":
        return _pursuit(info, location)
    if kind == "ProLU":
        return ProLU(take(tensors, "prolu_bias", location))
    raise SaebenchError(f"{location.origin} names an unknown activation function {kind!r}.")
