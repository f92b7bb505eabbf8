"""Published single files whose formula only their project's release notes state: Qwen Scope, DeepSeek-R1, hook_z SAEs.

None of these projects has a package: layouts and formulas are those that the projects published with the files.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from saebench.checkpoints.base import Adapter, Location, Sizes, integer, read_torch, take, take_matrix
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, ReLU, SparseAutoencoder, TopK

_QWEN = re.compile(r"SAE-Res-([\w.-]+?)-W(\d+)K-L0_(\d+)")
_QWEN_FILE = re.compile(r"(?:^|/)layer(\d+)\.sae\.pt$")
_DEEPSEEK = re.compile(r"(DeepSeek-R1[\w.-]*?)-SAE-l(\d+)[\w.-]*\.pt$")


class _Published(Adapter):
    """What the formats of this file share: one ``.pt`` file, read by ``_read`` into the autoencoder's parts."""

    def weights_file(self, location: Location) -> str:
        """The one ``.pt`` file."""
        return location.matching(".pt")[0]

    def describe(self, location: Location) -> CheckpointInfo:
        """From the memory-mapped weights and the names of the released files."""
        return self.load(location).info

    def _build(
        self,
        location: Location,
        parts: dict[str, Tensor],
        activation: Activation,
        subtract: bool,
        hook: str | None,
        **more: Any,
    ) -> SparseAutoencoder:
        """The autoencoder from ``W_enc [d, n]``, ``W_dec [n, d]`` and the biases."""
        (d, n), d_out = parts["W_enc"].shape, parts["W_dec"].shape[1]
        dtype = str(parts["W_enc"].dtype).removeprefix("torch.")
        info = self.info(location, Sizes(d, n, d_out), activation.describe(), hook, dtype=dtype, **more)
        return SparseAutoencoder(
            W_enc=parts["W_enc"],
            W_dec=parts["W_dec"],
            b_enc=parts["b_enc"],
            b_dec=parts["b_dec"],
            b_pre=parts["b_dec"] if subtract else None,
            activation=activation,
            info=info,
        )


class QwenScope(_Published):
    """``layer<i>.sae.pt`` of a repository ``SAE-Res-<model>-W<n>K-L0_<k>``: TopK, nothing subtracted."""

    name = "qwen_scope"
    looks_for = "layer<i>.sae.pt in a folder SAE-Res-<model>-W<n>K-L0_<k>"

    def recognise(self, location: Location) -> bool:
        """By the names of file and repository; the name of the repository alone holds k."""
        files = location.matching(".pt")
        return len(files) == 1 and _QWEN_FILE.search(files[0]) is not None and _QWEN.search(_path(location)) is not None

    def load(self, location: Location) -> SparseAutoencoder:
        """``W_enc`` is stored as ``[n, d]`` and ``W_dec`` as ``[d, n]``."""
        state, path = _state(location, self.weights_file(location)), _path(location)
        named, layer = _QWEN.search(path), _QWEN_FILE.search(path)
        assert named is not None and layer is not None
        parts = {"W_enc": take_matrix(state, "W_enc", location).T, "W_dec": take_matrix(state, "W_dec", location).T}
        parts |= {name: take(state, name, location) for name in ("b_enc", "b_dec")}
        hook = f"blocks.{layer[1]}.hook_resid_post"
        return self._build(location, parts, TopK(int(named[3])), False, hook, model=f"Qwen/{named[1]}")


class DeepSeek(_Published):
    """A file ``DeepSeek-R1[...]-SAE-l<i>.pt``: two linear layers with ReLU, nothing subtracted."""

    name = "deepseek_r1"
    looks_for = "DeepSeek-R1-SAE-l<i>.pt with encoder.weight and decoder.bias"

    def recognise(self, location: Location) -> bool:
        """By the name of the file."""
        return len(location.matching(".pt")) == 1 and _DEEPSEEK.search(_path(location)) is not None

    def load(self, location: Location) -> SparseAutoencoder:
        """The two layers."""
        state, layer = _state(location, self.weights_file(location)), _DEEPSEEK.search(_path(location))
        assert layer is not None
        parts = {
            "W_enc": take_matrix(state, "encoder.weight", location).T,
            "W_dec": take_matrix(state, "decoder.weight", location).T,
        }
        parts |= {"b_enc": take(state, "encoder.bias", location), "b_dec": take(state, "decoder.bias", location)}
        hook = f"blocks.{layer[2]}.hook_resid_post"
        return self._build(location, parts, ReLU(), False, hook, model=f"deepseek-ai/{layer[1]}")


class HookZ(_Published):
    """``<name>.pt`` beside ``<name>_cfg.json``, Connor Kissane's attention autoencoders: ReLU on flattened ``hook_z``."""

    name = "hook_z"
    looks_for = "<name>.pt beside <name>_cfg.json with act_size and dict_size"

    def recognise(self, location: Location) -> bool:
        """By the two files and the fields of the configuration."""
        files = location.matching(".pt")
        if len(files) != 1 or not location.has(_config_name(files[0])):
            return False
        return {"act_size", "dict_size"} <= location.json(_config_name(files[0])).keys()

    def load(self, location: Location) -> SparseAutoencoder:
        """Weights as stored; ``b_dec`` is subtracted before encoding.

        Raises:
            SaebenchError: the sizes in the configuration are not those of the weights, or it names another activation.
        """
        name = self.weights_file(location)
        config, state = location.json(_config_name(name)), _state(location, name)
        parts = {key: take(state, key, location) for key in ("W_enc", "W_dec", "b_enc", "b_dec")}
        for key, size in (("act_size", parts["W_enc"].shape[0]), ("dict_size", parts["W_enc"].shape[1])):
            if integer(config[key], key, location) != size:
                raise SaebenchError(
                    f"{location.origin} has {key} {config[key]} in its configuration, but {size} in its weights."
                )
        if config.get("act", "relu") not in ("relu", None):
            raise SaebenchError(
                f"{location.origin} has the activation function {config['act']!r}; this format is read with relu."
            )
        act = config.get("act_name")
        hook = act if isinstance(act, str) and act.startswith("blocks.") else None
        model = config.get("model_name")
        return self._build(location, parts, ReLU(), True, hook, model=model if isinstance(model, str) else None)


def _config_name(weights: str) -> str:
    return weights.removesuffix(".pt") + "_cfg.json"


def _path(location: Location) -> str:
    """The names of repository, folders and file, in one string."""
    root = None if location.root is None else location.root.resolve().as_posix()
    return "/".join(part for part in (location.repository, root, location.subfolder, *location.matching(".pt")[:1]) if part)


def _state(location: Location, name: str) -> dict[str, Any]:
    state: dict[str, Any] = read_torch(location, name)
    if not isinstance(state, dict):
        raise SaebenchError(f"{name} of {location.origin} holds a {type(state).__name__}, not a state dict.")
    return state
