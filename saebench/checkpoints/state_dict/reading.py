"""The tensors of a state dict, whatever file holds them, under the names that saebench uses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from saebench.checkpoints.base import Location, read_safetensors, read_torch
from saebench.errors import SaebenchError

INDEX = ".safetensors.index.json"
TORCH = (".pt", ".pth", "pytorch_model.bin")

_PREFIX = re.compile(r"^(?:(?:module|model|sae|ae|autoencoder|net|_orig_mod)\.)+")
_INSIDE = ("state_dict", "model_state_dict", "model", "sae", "ae", "autoencoder", "weights")
"""Keys under which a training checkpoint keeps the state dict itself."""

SPELLINGS = {
    "W_enc": ("W_enc", "w_enc", "encoder.weight", "enc.weight", "encoder.0.weight", "W_E", "encoder", "enc"),
    "W_dec": ("W_dec", "w_dec", "decoder.weight", "dec.weight", "decoder.0.weight", "W_D", "decoder", "dec"),
    "b_enc": ("b_enc", "encoder.bias", "latent_bias", "enc.bias", "encoder.0.bias", "b_E"),
    "b_dec": ("b_dec", "decoder.bias", "bias", "decoder_bias", "dec.bias", "decoder.0.bias", "b_D"),
    "b_pre": ("b_pre", "pre_bias"),
    "W_skip": ("W_skip", "skip.weight"),
    "threshold": ("threshold", "thresholds"),
    "log_threshold": ("log_threshold", "log_thresholds"),
    "k": ("k",),
    "r_mag": ("r_mag",),
    "b_gate": ("b_gate", "gate_bias"),
    "b_mag": ("b_mag", "mag_bias"),
}
_STATISTICS = re.compile(
    r"act_mean|mean_activation|(?:num|n|n_)_?(?:batches|forward|tokens|steps?).*|.*since_(?:fired|active)|.*not_active|stats_.*"
    r"|sparsity|step|.*frequency|.*firing.*|group_sizes|active_groups|optimizer.*|scheduler.*|epoch|losses?|cfg|config|act_freq.*"
)
"""What training leaves beside the weights and inference does not read."""


@dataclass(frozen=True)
class State:
    """The content of a state dict.

    Attributes:
        tensors: by saebench's names.
        spelled: the file's own name of each.
        extra: names that are neither weights nor known statistics of training.
        assumed: what was decided in reading.
        places: of a crosscoder, the number of hooks that it reads and writes; their activations are side by side.
    """

    tensors: dict[str, Tensor]
    spelled: dict[str, str]
    extra: tuple[str, ...]
    assumed: dict[str, str] = field(default_factory=dict)
    places: int = 1

    @property
    def linear(self) -> bool:
        """Whether the encoder is spelled as a linear layer of PyTorch, whose weight is ``[out, in]``."""
        return self.spelled.get("W_enc", "").endswith(".weight")


def weight_files(location: Location) -> list[str]:
    """The files that hold the weights: one, or all shards of an index; empty where there is no single candidate."""
    indices = location.matching(INDEX)
    if len(indices) == 1:
        shards = location.json(indices[0]).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise SaebenchError(f"{indices[0]} of {location.origin} has no weight_map of file names.")
        folder = indices[0].rpartition("/")[0]
        return sorted({f"{folder}/{name}" if folder else name for name in shards.values()})
    files = [name for name in location.matching(".safetensors", *TORCH) if name != "sparsity.safetensors"]
    return files if len(files) == 1 else []


def read_state(location: Location) -> State:
    """The state dict of ``weight_files``, with names brought to saebench's.

    Raises:
        SaebenchError: it holds no encoder and decoder, or the same weight twice.
    """
    data: dict[str, Any] = {}
    for name in weight_files(location):
        content = read_safetensors(location, name) if name.endswith(".safetensors") else read_torch(location, name)
        if not isinstance(content, dict):
            content = {}
        data |= content
    for key in _INSIDE:
        inner = data.get(key)
        if isinstance(inner, dict) and any(isinstance(value, Tensor) for value in inner.values()):
            data = {**{name: value for name, value in data.items() if name in ("k", "cfg", "config")}, **inner}
            break
    return _side_by_side(_named(_sequential({_PREFIX.sub("", str(key)): value for key, value in data.items()}), location))


def is_state(state: State) -> bool:
    """Whether an encoder and a decoder are there, each a matrix."""
    return all(name in state.tensors and state.tensors[name].ndim == 2 for name in ("W_enc", "W_dec"))


def _side_by_side(state: State) -> State:
    """A crosscoder's ``[place, d, n]`` and ``[place, n, d]`` as matrices of one wide autoencoder; others as they are."""
    encoder, decoder = state.tensors.get("W_enc"), state.tensors.get("W_dec")
    if encoder is None or decoder is None or (encoder.ndim, decoder.ndim) != (3, 3):
        return state
    places, d, n = encoder.shape
    if decoder.shape != (places, n, d):
        return state
    tensors = {**state.tensors, "W_enc": encoder.flatten(0, 1), "W_dec": decoder.transpose(0, 1).flatten(1)}
    if "b_dec" in tensors:
        tensors["b_dec"] = tensors["b_dec"].flatten()
    words = f"crosscoder of {places} places, whose codes are sums over the places; no bias is subtracted before encoding"
    spelled = {**state.spelled, "W_enc": "W_enc", "W_dec": "W_dec"}
    return replace(state, tensors=tensors, spelled=spelled, assumed={**state.assumed, "layout": words}, places=places)


def _sequential(data: dict[str, Any]) -> dict[str, Any]:
    """``0.weight`` and ``2.weight`` of ``nn.Sequential(Linear, activation, Linear)`` as encoder and decoder."""
    layers = sorted({int(key[:-7]) for key in data if key.endswith(".weight") and key[:-7].isdecimal()})
    if len(layers) != 2:
        return data
    sides = {f"{layers[0]}.": "encoder.", f"{layers[1]}.": "decoder."}
    parts = {key: key.partition(".") for key in data}
    return {sides.get(head + dot, head + dot) + rest: data[key] for key, (head, dot, rest) in parts.items()}


def _named(data: dict[str, Any], location: Location) -> State:
    tensors: dict[str, Tensor] = {}
    spelled: dict[str, str] = {}
    for name, spellings in SPELLINGS.items():
        there = [spelling for spelling in spellings if _numeric(data.get(spelling))]
        if len(there) > 1:
            raise SaebenchError(f"{location.origin} holds {' and '.join(there)}, which are two names of one weight.")
        if there:
            tensors[name], spelled[name] = torch.as_tensor(data[there[0]]), there[0]
    assumed: dict[str, str] = {}
    config = data.get("cfg", data.get("config"))
    if "k" not in tensors and isinstance(config, dict) and _numeric(config.get("k")):
        tensors["k"], assumed["k"] = torch.as_tensor(config["k"]), "from the configuration inside the file"
    rest = [key for key in data if key not in spelled.values()]
    left = sorted(key for key in rest if not isinstance(data[key], Tensor) or _STATISTICS.fullmatch(key))
    extra = tuple(sorted(key for key in rest if key not in left))
    if left:
        assumed["not used"] = f"{', '.join(left[:8])}{', ...' if len(left) > 8 else ''} (kept by training)"
    return State(tensors, spelled, extra, assumed)


def _numeric(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)
