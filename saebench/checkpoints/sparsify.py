"""EleutherAI's sparsify: ``{hookpoint}/cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from saebench.checkpoints.base import Location, PairAdapter, Sizes, flag, integer, read_safetensors, take, take_matrix
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, GroupMax, SparseAutoencoder, TopK

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


class Sparsify(PairAdapter):
    """``cfg.json`` and ``sae.safetensors`` with ``encoder.weight``."""

    name = "sparsify"
    looks_for = f"{CONFIG} and {WEIGHTS} (in the folder of one hookpoint)"
    config, weights = CONFIG, WEIGHTS

    def recognise(self, location: Location) -> bool:
        """By the names of its two files; saebench's own weights have the same name, but come with ``sae.json``."""
        return super().recognise(location) and not location.has("sae.json")

    def describe(self, location: Location) -> CheckpointInfo:
        """From the configuration and the header of the weights (``num_latents`` is 0 where a factor was given instead)."""
        config = location.json(CONFIG)
        shapes = self.header(location, "encoder.weight", "W_dec")
        (n, d_in), dtype = shapes["encoder.weight"]
        activation = _activation(config, location)
        transcodes = flag(config, "transcode", location)
        hook = _hookpoint(location)
        if transcodes and hook is not None and hook.endswith(".mlp"):
            hook_in: str | None = hook.removesuffix(".mlp") + ".mlp_in"
        else:
            hook_in = hook
        sizes, training = Sizes(d_in, n, shapes["W_dec"][0][1]), {"sparsify": {"config": config}}
        return self.info(location, sizes, activation.describe(), hook_in, hook_out=hook, dtype=dtype, training=training)

    def load(self, location: Location) -> SparseAutoencoder:
        """Weights as stored: ``W_dec`` is ``[n, d]`` already."""
        config = location.json(CONFIG)
        tensors = read_safetensors(location, WEIGHTS)
        b_dec = take(tensors, "b_dec", location)
        return SparseAutoencoder(
            W_enc=take_matrix(tensors, "encoder.weight", location).T,
            W_dec=take(tensors, "W_dec", location),
            b_enc=take(tensors, "encoder.bias", location),
            b_dec=b_dec,
            b_pre=None if flag(config, "transcode", location) else b_dec,
            W_skip=take_matrix(tensors, "W_skip", location).T if "W_skip" in tensors else None,
            activation=_activation(config, location),
            info=self.describe(location),
        )


def _activation(config: dict[str, Any], location: Location) -> Activation:
    kind, k = config.get("activation", "topk"), integer(config.get("k"), "k", location)
    if kind == "groupmax":
        return GroupMax(k)
    if kind == "topk":
        return TopK(k, signed=flag(config, "signed", location))
    raise SaebenchError(
        f"{location.origin} has the activation {kind!r}; sparsify checkpoints are read with topk or groupmax."
    )


def _hookpoint(location: Location) -> str | None:
    """The folder is named after the hookpoint, such as ``layers.5`` or ``layers.5.mlp``."""
    path = location.root.resolve().as_posix() if location.root is not None else location.subfolder
    name = PurePosixPath(path).name
    return name if name.startswith(("layers.", "h.", "model.", "transformer.", "gpt_neox.")) else None
