"""circuit-tracer's transcoder sets and cross-layer transcoders: ``config.yaml`` with the weights of every layer.

One autoencoder for all layers: its code has the latents of each layer in turn, and its activations are those of all hooks
side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
import yaml
from torch import Tensor

from saebench.checkpoints.base import Adapter, Location, Sizes, read_safetensors, safetensors_header, take, take_matrix
from saebench.checkpoints.gemma_scope import GemmaScope
from saebench.errors import SaebenchError
from saebench.sae import CheckpointInfo, JumpReLU, ReLU, SparseAutoencoder
from saebench.sae.layered import LayeredAutoencoder, Part

CONFIG = "config.yaml"
LARGEST_CONFIG = 2**20
SET, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"
THRESHOLD = "activation_function.threshold"
_LAYER = re.compile(r"W_enc_(\d+)\.safetensors")


class CircuitTracer(Adapter):
    """``config.yaml`` with ``model_kind``, and one file for each layer."""

    name = "circuit_tracer"
    looks_for = f"{CONFIG} with model_kind: {SET} or {CROSS_LAYER}"

    def recognise(self, location: Location) -> bool:
        """By the configuration's ``model_kind``."""
        return location.has(CONFIG) and location.file in (None, CONFIG) and "model_kind" in _config(location)

    def weights_file(self, location: Location) -> str:
        """The first layer's encoder."""
        return self.weights_files(location)[0]

    def weights_files(self, location: Location) -> list[str]:
        """All files of the folder that hold weights; files of other repositories are not among them."""
        config = _config(location)
        if config["model_kind"] == CROSS_LAYER:
            layers = range(_cross_layers(location))
            return [f"W_{side}_{layer}.safetensors" for layer in layers for side in ("enc", "dec")]
        return [place.names[0] for place in _members(config, location) if place.root == location.root]

    def hashes(self, location: Location) -> list[str]:
        """Of every file, those of other repositories included."""
        config = _config(location)
        if config["model_kind"] == CROSS_LAYER:
            return super().hashes(location)
        return [place.sha256(place.names[0]) for place in _members(config, location)]

    def describe(self, location: Location) -> CheckpointInfo:
        """From the configuration and the headers of the weights."""
        config = _config(location)
        if config["model_kind"] == CROSS_LAYER:
            layers = _cross_layers(location)
            header = safetensors_header(location, "W_enc_0.safetensors")
            if "W_enc_0" not in header:
                raise SaebenchError(f"W_enc_0.safetensors of {location.origin} has no tensor W_enc_0.")
            (n, d), jumps = header["W_enc_0"][0], "threshold_0" in header
            sizes = Sizes(layers * d, layers * n, layers * d)
        else:
            every = [_member_sizes(place) for place in _members(config, location)]
            layers, jumps = len(every), all(jumps for _, _, jumps in every)
            sizes = Sizes(*(sum(each[at] for each in every) for at in (0, 1, 0)))
        reads, writes = (
            ",".join(f"blocks.{layer}.{_hook(config, side, location)}" for layer in range(layers))
            for side in ("feature_input_hook", "feature_output_hook")
        )
        model = config.get("model_name")
        if model is not None and not isinstance(model, str):
            raise SaebenchError(f"{CONFIG} of {location.origin} gives {model!r} for model_name; a name is needed.")
        found = self.info(
            location, sizes, {"name": "jumprelu" if jumps else "relu"}, reads, hook_out=writes, model=model,
            training={"circuit_tracer": {"config": config}},
        )  # fmt: skip
        kind = "cross-layer transcoder" if config["model_kind"] == CROSS_LAYER else "transcoder set"
        return replace(found, architecture=f"{kind} ({found.architecture})")

    def load(self, location: Location) -> LayeredAutoencoder:
        """The layers' weights as stored, memory-mapped."""
        config, info = _config(location), self.describe(location)
        layers = list(_cross_layer(location) if config["model_kind"] == CROSS_LAYER else _set(config, location))
        parts, read, written = [], 0, 0
        total = sum(bias.numel() for _, bias, _ in layers)
        for sae, bias, crosses in layers:
            end = total if crosses else written + bias.numel()
            parts.append(Part(sae, slice(read, read + sae.d_in), slice(written, end)))
            read, written = read + sae.d_in, written + bias.numel()
        for number, part in enumerate(parts):
            if part.sae.d_out != part.writes.stop - part.writes.start:
                raise SaebenchError(
                    f"The decoder of layer {number} of {location.origin} does not fit the layers it writes to."
                )
        return LayeredAutoencoder(tuple(parts), torch.cat([bias.float() for _, bias, _ in layers]), info)


Layer = tuple[SparseAutoencoder, Tensor, bool]
"""A layer's autoencoder, its decoder bias, and whether it writes to all layers above too."""


def _config(location: Location) -> dict[str, Any]:
    """The configuration.

    Raises:
        SaebenchError: it is not YAML, or implausibly large.
    """
    path = location.path(CONFIG)
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise SaebenchError(
                f"{CONFIG} of {location.origin} is over {LARGEST_CONFIG >> 20} MiB: it is not a configuration."
            )
        text = path.read_text(encoding="utf-8")
        if re.search(r"[&*]\w", text):  # aliases could make a small file enormous
            raise SaebenchError(f"{CONFIG} of {location.origin} uses aliases of YAML, which are not read.")
        data = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = str(error).partition("\n")[0]
        raise SaebenchError(f"{CONFIG} of {location.origin} is not readable YAML: {line}.") from error
    if not isinstance(data, dict):
        return {}
    if "model_kind" in data and data["model_kind"] not in (SET, CROSS_LAYER):
        kind = str(data["model_kind"])[:60]
        raise SaebenchError(f"{CONFIG} of {location.origin} has the model_kind {kind!r}; {SET} and {CROSS_LAYER} are read.")
    return data


def _hook(config: dict[str, Any], side: str, location: Location) -> str:
    hook = config.get(side)
    if not isinstance(hook, str) or not re.fullmatch(r"[\w.]+", hook):
        raise SaebenchError(f"{CONFIG} of {location.origin} names no {side} such as hook_mlp_out.")
    return hook


def _members(config: dict[str, Any], location: Location) -> list[Location]:
    """The place of each layer's file, in order of the layers: in this folder, or ``hf://owner/name/path?revision=...``."""
    names = config.get("transcoders")
    if names is None:
        found = sorted((int(name[6:-12]), name) for name in location.names if re.fullmatch(r"layer_\d+\.safetensors", name))
        if [layer for layer, _ in found] != list(range(len(found))):
            raise SaebenchError(f"{location.origin} does not hold layer_0.safetensors and all that follow it.")
        names = [name for _, name in found]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise SaebenchError(f"{CONFIG} of {location.origin} names no files of transcoders.")
    return [_member(name, location) for name in names]


def _member(name: str, location: Location) -> Location:
    if not name.startswith("hf://"):
        if name not in location.names:
            raise SaebenchError(f"{CONFIG} of {location.origin} names {name[:80]}, which is not in its folder.")
        return replace(location, names=(name,), file=name)
    parsed = urlparse(name)
    parts = [parsed.netloc, *parsed.path.strip("/").split("/")]
    if len(parts) < 3 or not all(parts) or ".." in parts:
        raise SaebenchError(f"{CONFIG} of {location.origin} names {name[:80]}, which is no file on the hub.")
    revision = parse_qs(parsed.query).get("revision", [None])[0]
    return Location(
        name,
        (parts[-1],),
        repository="/".join(parts[:2]),
        subfolder="/".join(parts[2:-1]),
        revision=revision,
        file=parts[-1],
    )


def _member_sizes(place: Location) -> tuple[int, int, bool]:
    """``(d, n, whether it has thresholds)`` of a layer's file."""
    if place.names[0].endswith(".npz"):
        info = GemmaScope().describe(place)
        return info.d_in, info.n_latents, True
    header = safetensors_header(place, place.names[0])
    if "b_enc" not in header or "b_dec" not in header:
        raise SaebenchError(f"{place.names[0]} of {place.origin} lacks b_enc or b_dec; it has: {', '.join(sorted(header))}.")
    return header["b_dec"][0][0], header["b_enc"][0][0], THRESHOLD in header


def _set(config: dict[str, Any], location: Location) -> Iterator[Layer]:
    for place in _members(config, location):
        if place.names[0].endswith(".npz"):
            sae = GemmaScope().load(place)
            yield replace(sae, b_dec=torch.zeros_like(sae.b_dec)), sae.b_dec, False
            continue
        tensors = read_safetensors(place, place.names[0])
        b_dec = take(tensors, "b_dec", place)
        yield (
            _layer(
                take_matrix(tensors, "W_enc", place),
                take_matrix(tensors, "W_dec", place),
                take(tensors, "b_enc", place),
                tensors.get(THRESHOLD),
                take_matrix(tensors, "W_skip", place) if "W_skip" in tensors else None,
                place,
            ),
            b_dec,
            False,
        )


def _cross_layers(location: Location) -> int:
    found = sorted(int(match[1]) for name in location.names if (match := _LAYER.fullmatch(name)))
    missing = [f"W_dec_{layer}.safetensors" for layer in found if not location.has(f"W_dec_{layer}.safetensors")]
    if not found or found != list(range(len(found))) or missing:
        lacks = missing[0] if missing else "W_enc_0.safetensors and all that follow it"
        raise SaebenchError(f"{location.origin} is a cross-layer transcoder, but lacks {lacks}.")
    return len(found)


def _cross_layer(location: Location) -> Iterator[Layer]:
    layers = _cross_layers(location)
    for layer in range(layers):
        tensors = read_safetensors(location, f"W_enc_{layer}.safetensors")
        W_dec = take(read_safetensors(location, f"W_dec_{layer}.safetensors"), f"W_dec_{layer}", location)
        if W_dec.ndim != 3 or W_dec.shape[1] != layers - layer:
            shape = list(W_dec.shape)
            raise SaebenchError(
                f"W_dec_{layer} of {location.origin} has the shape {shape}; it must write to {layers - layer} layers."
            )
        skip = tensors.get(f"W_skip_{layer}")
        if skip is not None:
            raise SaebenchError(
                f"{location.origin} has skip connections (W_skip_{layer}), which are not read across layers."
            )
        W_enc = take_matrix(tensors, f"W_enc_{layer}", location)
        b_enc, threshold = take(tensors, f"b_enc_{layer}", location), tensors.get(f"threshold_{layer}")
        yield (
            _layer(W_enc, W_dec.flatten(1), b_enc, threshold, None, location),
            take(tensors, f"b_dec_{layer}", location),
            True,
        )


def _layer(
    W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, threshold: Tensor | None, W_skip: Tensor | None, location: Location
) -> SparseAutoencoder:
    """One layer; encoders are stored as ``[n, d]``, skip connections as ``[out, in]``. The decoder bias is added later."""
    activation = ReLU() if threshold is None else JumpReLU(threshold.flatten())
    info = CheckpointInfo(
        location.origin, CircuitTracer.name, activation.name, W_enc.shape[-1], W_dec.shape[-1], W_enc.shape[0],
        activation.describe(),
    )  # fmt: skip
    return SparseAutoencoder(
        W_enc=W_enc.T,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=torch.zeros(W_dec.shape[-1]),
        W_skip=None if W_skip is None else W_skip.T,
        activation=activation,
        info=info,
    )
