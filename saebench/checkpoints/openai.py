"""OpenAI's ``sparse_autoencoder``: one ``.pt`` file with a flat state dict."""

from __future__ import annotations

import re
from typing import Any

from saebench.checkpoints.base import Adapter, Location, Sizes, integer, read_torch, take, take_matrix
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, InputScaling, ReLU, SparseAutoencoder, TopK

_KEYS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
_HOOK = re.compile(r"resid_post_mlp|resid_post_attn|resid_delta_mlp|resid_delta_attn|mlp_post_act")
# A number in the version, as in resid_post_mlp_v5_32k/autoencoders/8.pt, is not the layer.
_LAYER = re.compile(r"layer_?(\d+)|(?:mlp|attn|act)[/.](\d+)(?=[/.])|/(\d+)\.pt$")


class OpenAI(Adapter):
    """A ``.pt`` file with ``pre_bias``, ``encoder.weight``, ``latent_bias`` and ``decoder.weight``."""

    name = "openai"
    looks_for = "a .pt file with pre_bias, encoder.weight, latent_bias and decoder.weight"

    def recognise(self, location: Location) -> bool:
        """By the keys of its one ``.pt`` file; the format has no other identification."""
        files = location.matching(".pt")
        if len(files) != 1 or files[0] == "ae.pt":  # dictionary_learning's
            return False
        state = read_torch(location, files[0])
        return isinstance(state, dict) and all(key in state for key in _KEYS)

    def weights_file(self, location: Location) -> str:
        """The one ``.pt`` file."""
        return location.matching(".pt")[0]

    def describe(self, location: Location) -> CheckpointInfo:
        """From the state dict, which is memory-mapped."""
        state = self._state(location)
        n, d = take(state, "encoder.weight", location).shape
        activation = _activation(state, location)
        return self.info(
            location,
            Sizes(d, n, d),
            activation.describe(),
            _hook(location),
            scaling=_scaling(activation).kind,
            model="gpt2",
            context=64,
            dtype=str(state["encoder.weight"].dtype).removeprefix("torch."),
        )

    def load(self, location: Location) -> SparseAutoencoder:
        """The state dict in saebench's layout; training statistics are dropped."""
        state = self._state(location)
        bias = take(state, "pre_bias", location)
        activation = _activation(state, location)
        return SparseAutoencoder(
            W_enc=take_matrix(state, "encoder.weight", location).T,
            W_dec=take_matrix(state, "decoder.weight", location).T,
            b_enc=take(state, "latent_bias", location),
            b_dec=bias,
            b_pre=bias,
            activation=activation,
            scaling=_scaling(activation),
            info=self.describe(location),
        )

    def _state(self, location: Location) -> dict[str, Any]:
        state: dict[str, Any] = read_torch(location, self.weights_file(location))
        return state


def _activation(state: dict[str, Any], location: Location) -> Activation:
    kind = state.get("activation", "ReLU")
    if kind == "ReLU":
        return ReLU()
    if kind != "TopK":
        raise SaebenchError(f"{location.origin} has the activation {kind!r}; OpenAI's format has TopK and ReLU.")
    settings = state.get("activation_state_dict") or {}
    after = str(settings.get("postact_fn", "ReLU"))
    if after not in ("ReLU", "Identity"):
        raise SaebenchError(f"{location.origin} applies {after!r} after its TopK; saebench supports ReLU and Identity.")
    return TopK(integer(settings.get("k"), "k", location), relu=after == "ReLU")


def _scaling(activation: Activation) -> InputScaling:
    """Not stored: the library normalises if and only if it uses TopK."""
    return InputScaling("layer_norm" if isinstance(activation, TopK) else "none")


def _hook(location: Location) -> str | None:
    """From the path, which names location and layer in the released files."""
    path = f"{location.root or location.subfolder}/{location.matching('.pt')[0]}"
    sites, layers = _HOOK.findall(path), ["".join(groups) for groups in _LAYER.findall(path)]
    return f"{sites[-1]}.{layers[-1]}" if sites and layers else None
