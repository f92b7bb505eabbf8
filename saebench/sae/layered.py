"""Autoencoders across layers: one code for several hooks, from encoders that each read one of them.

A set of transcoders has an encoder and a decoder for each layer. In a cross-layer transcoder a layer's latents also write to
the layers above. Activations of all hooks are side by side, and so are those of the outputs (``saebench.lm.hooks.HookSet``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae.info import CheckpointInfo
from saebench.sae.latents import SparseLatents
from saebench.sae.model import SparseAutoencoder


@dataclass(frozen=True)
class Part:
    """The latents of one layer.

    Attributes:
        sae: maps the activations of one hook to a part of the outputs. Its decoder bias is not used.
        reads: which of the inputs' columns; ``writes``: which of the outputs'.
    """

    sae: SparseAutoencoder
    reads: slice
    writes: slice


@dataclass(frozen=True)
class LayeredAutoencoder:
    """Latents of several layers in one code: those of the first part come first.

    Attributes:
        parts: in the order of their latents.
        b_dec: ``[d_out]``, of all outputs.
        info: where the weights come from.
    """

    parts: tuple[Part, ...]
    b_dec: Tensor
    info: CheckpointInfo

    @property
    def d_in(self) -> int:
        """Width of the activations of all hooks that are read."""
        return max(int(part.reads.stop) for part in self.parts)

    @property
    def d_out(self) -> int:
        """Width of the activations of all hooks that are written."""
        return self.b_dec.numel()

    @property
    def n_latents(self) -> int:
        """Latents of all parts."""
        return sum(part.sae.n_latents for part in self.parts)

    def encode(self, x: Tensor) -> SparseLatents:
        """The code of activations ``[tokens, d_in]``: the parts' codes, with their latents numbered through."""
        indices, values, first = [], [], 0
        for part in self.parts:
            code = part.sae.encode(x[:, part.reads])
            indices.append((code.indices + first) * code.active)
            values.append(code.values)
            first += part.sae.n_latents
        return SparseLatents(torch.cat(indices, dim=1), torch.cat(values, dim=1), first)

    def decode(self, latents: SparseLatents, x: Tensor) -> Tensor:
        """Reconstructions ``[tokens, d_out]``: the sum of what each part writes."""
        total = self.b_dec.to(x).expand(x.shape[0], -1).clone()
        first = 0
        for part in self.parts:
            own = latents.active & (latents.indices >= first) & (latents.indices < first + part.sae.n_latents)
            slots = int(own.sum(dim=1).max()) if own.numel() else 0
            order = own.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :slots]
            kept = own.gather(1, order)
            code = SparseLatents(
                (latents.indices.gather(1, order) - first) * kept,
                latents.values.gather(1, order) * kept,
                part.sae.n_latents,
            )
            total[:, part.writes] += part.sae.decode(code, x[:, part.reads]).to(total)
            first += part.sae.n_latents
        return total

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight with its name."""
        yield "b_dec", self.b_dec
        for number, part in enumerate(self.parts):
            for name, tensor in part.sae.tensors():
                yield f"{number}.{name}", tensor

    def check_finite(self) -> None:
        """Raise ``SaebenchError`` where a weight is NaN or infinite."""
        for number, part in enumerate(self.parts):
            part.sae.check_finite()
            if not torch.isfinite(self.b_dec[part.writes]).all():
                raise SaebenchError(f"The decoder bias of layer {number} holds NaN or infinite values: it is damaged.")

    def to(self, device: torch.device | str) -> LayeredAutoencoder:
        """The same autoencoder on another device."""
        moved = tuple(replace(part, sae=part.sae.to(device)) for part in self.parts)
        return replace(self, parts=moved, b_dec=self.b_dec.to(device))


AnyAutoencoder = SparseAutoencoder | LayeredAutoencoder
"""What a checkpoint is read into."""
