"""Goodfire's released autoencoders: one ``.pt`` or ``.pth`` file with two linear layers, ReLU, on the residual stream."""

from __future__ import annotations

import re
from typing import Any

from saebench.checkpoints.base import Adapter, Location, Sizes, read_torch, take, take_matrix
from saebench.sae import CheckpointInfo, ReLU, SparseAutoencoder

_NAME = re.compile(r"(Llama-3\.[13]-\d+B-Instruct)-SAE-l(\d+)")


class Goodfire(Adapter):
    """A file with ``encoder_linear`` and ``decoder_linear``."""

    name = "goodfire"
    looks_for = "a .pt or .pth file with encoder_linear.weight and decoder_linear.weight"

    def recognise(self, location: Location) -> bool:
        """By the keys of its one file."""
        files = location.matching(".pt", ".pth")
        if len(files) != 1 or files[0] == "ae.pt":  # dictionary_learning's
            return False
        state = read_torch(location, files[0])
        return isinstance(state, dict) and "encoder_linear.weight" in state

    def weights_file(self, location: Location) -> str:
        """The one ``.pt`` or ``.pth`` file."""
        return location.matching(".pt", ".pth")[0]

    def describe(self, location: Location) -> CheckpointInfo:
        """From the memory-mapped state dict; hook and model from the name of the released files."""
        weight = take(self._state(location), "encoder_linear.weight", location)
        n, d = weight.shape
        match = _NAME.search(f"{location.origin}/{self.weights_file(location)}")
        hook = f"blocks.{match[2]}.hook_resid_post" if match else None
        model = f"meta-llama/{match[1]}" if match else None
        dtype = str(weight.dtype).removeprefix("torch.")
        return self.info(location, Sizes(d, n, d), {"name": "relu"}, hook, model=model, dtype=dtype)

    def load(self, location: Location) -> SparseAutoencoder:
        """The two layers."""
        state = self._state(location)
        return SparseAutoencoder(
            W_enc=take_matrix(state, "encoder_linear.weight", location).T,
            W_dec=take_matrix(state, "decoder_linear.weight", location).T,
            b_enc=take(state, "encoder_linear.bias", location),
            b_dec=take(state, "decoder_linear.bias", location),
            activation=ReLU(),
            info=self.describe(location),
        )

    def _state(self, location: Location) -> dict[str, Any]:
        state: dict[str, Any] = read_torch(location, self.weights_file(location))
        return state
