"""The values that probes read: an autoencoder's latents, or other directions, pooled over each text's tokens.

Latents are processed in chunks, so that the values of all latents are never in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from saebench.probing.protocol import Of, Pooling
from saebench.sae import Autoencoder, SparseAutoencoder, SparseLatents

CHUNK_ELEMENTS = 2**22
"""Values computed at once: 16 MiB in float32."""


class ValueSource(Protocol):
    """Values of many directions on some texts."""

    @property
    def width(self) -> int:
        """Number of directions."""

    def chunks(self, rows: Tensor, owner: Tensor, texts: int) -> Iterator[Tensor]:
        """``[directions, texts]`` float32 for neighbouring directions, in order.

        Args:
            rows: ``[rows, d_in]``, activations.
            owner: ``[rows]``, the text each belongs to.
            texts: number of texts.
        """

    def chosen(self, indices: Tensor, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        """``[directions, texts]`` float32 for the directions ``indices``."""


def pool(values: Tensor, owner: Tensor, texts: int, pooling: Pooling) -> Tensor:
    """``[texts, directions]`` from ``[rows, directions]``; ``last`` expects one row a text."""
    if pooling == "last":
        return values
    index = owner.unsqueeze(1).expand_as(values)
    empty = values.new_zeros(texts, values.shape[1])
    return empty.scatter_reduce(0, index, values, "mean" if pooling == "mean" else "amax", include_self=False)


class PreActivations:
    """The input of an autoencoder's activation function (Gao et al. 2024, section 4.2)."""

    def __init__(self, sae: SparseAutoencoder, pooling: Pooling) -> None:
        self.sae, self.pooling = sae, pooling

    @property
    def width(self) -> int:
        """Number of latents."""
        return self.sae.n_latents

    def chunks(self, rows: Tensor, owner: Tensor, texts: int) -> Iterator[Tensor]:
        """See ``ValueSource``."""
        size = max(64, CHUNK_ELEMENTS // rows.shape[0])
        rows = rows.to(self.sae.W_enc.device)
        for start in range(0, self.width, size):
            values = self.sae.pre_activations(rows, start, min(start + size, self.width)).float().cpu()
            yield pool(values, owner, texts, self.pooling).T

    def chosen(self, indices: Tensor, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        """See ``ValueSource``."""
        rows = rows.to(self.sae.W_enc.device)
        values = self.sae.pre_activations_of(rows, indices.to(rows.device)).float().cpu()
        return pool(values, owner, texts, self.pooling).T


class Activations:
    """The output of an autoencoder's activation function: latents after TopK or the like, most of them 0."""

    def __init__(self, sae: Autoencoder, pooling: Pooling) -> None:
        self.sae, self.pooling = sae, pooling
        self._encoded: tuple[Tensor, SparseLatents] | None = None

    @property
    def width(self) -> int:
        """Number of latents."""
        return self.sae.n_latents

    def encode(self, rows: Tensor) -> SparseLatents:
        """The code of ``rows``; the last one is cached."""
        if self._encoded is None or self._encoded[0] is not rows:
            device = self.sae.W_enc.device if isinstance(self.sae, SparseAutoencoder) else rows.device
            code = self.sae.encode(rows.to(device))
            factor = None if code.factor is None else code.factor.cpu()
            self._encoded = rows, SparseLatents(code.indices.cpu(), code.values.float().cpu(), code.n_latents, factor=factor)
        return self._encoded[1]

    def chunks(self, rows: Tensor, owner: Tensor, texts: int) -> Iterator[Tensor]:
        """See ``ValueSource``."""
        size = max(64, CHUNK_ELEMENTS // rows.shape[0])
        for start in range(0, self.width, size):
            yield self.chosen(torch.arange(start, min(start + size, self.width)), rows, owner, texts)

    def chosen(self, indices: Tensor, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        """See ``ValueSource``."""
        code = self.encode(rows)
        order = indices.argsort()
        place = torch.searchsorted(indices[order], code.indices).clamp_max(indices.numel() - 1)
        wanted = (indices[order][place] == code.indices) & code.active
        token, slot = wanted.nonzero(as_tuple=True)
        dense = torch.zeros(rows.shape[0], indices.numel())
        dense[token, order[place[token, slot]]] = code.values[token, slot]
        return pool(dense, owner, texts, self.pooling).T

    def class_means(self, rows: Tensor, owner: Tensor, labels: Tensor) -> Tensor:
        """``[2, latents]`` float64: each class's mean over texts, without dense values where pooling allows it."""
        texts = labels.numel()
        counts = torch.stack([(labels == 0).sum(), (labels == 1).sum()]).double().unsqueeze(1)
        if self.pooling == "max":
            sums = [torch.stack([part[:, labels == 0].double().sum(1), part[:, labels == 1].double().sum(1)])
                    for part in self.chunks(rows, owner, texts)]  # fmt: skip
            return torch.cat(sums, dim=1) / counts
        code = self.encode(rows)
        per_text = torch.bincount(owner, minlength=texts).double()
        weights = (code.values.double() / per_text[owner].unsqueeze(1)).flatten()
        flat = (labels[owner].unsqueeze(1) * self.width + code.indices).flatten()
        return torch.zeros(2 * self.width, dtype=torch.float64).index_add_(0, flat, weights).view(2, -1) / counts


class Directions:
    """Linear directions in the space of activations: ``values = rows @ matrix``."""

    def __init__(self, matrix: Tensor, pooling: Pooling) -> None:
        self.matrix, self.pooling = matrix, pooling

    @property
    def width(self) -> int:
        """Number of directions."""
        return self.matrix.shape[1]

    def chunks(self, rows: Tensor, owner: Tensor, texts: int) -> Iterator[Tensor]:
        """See ``ValueSource``."""
        for part in self.matrix.split(max(64, CHUNK_ELEMENTS // rows.shape[0]), dim=1):
            yield pool(rows @ part, owner, texts, self.pooling).T

    def chosen(self, indices: Tensor, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        """See ``ValueSource``."""
        return pool(rows @ self.matrix[:, indices], owner, texts, self.pooling).T


class RandomDirections:
    """As many random directions of unit norm as an autoencoder has latents; generated again, chunk by chunk, from a seed."""

    def __init__(self, d: int, width: int, seed: int, pooling: Pooling) -> None:
        self.d, self._width, self.seed, self.pooling = d, width, seed, pooling

    BLOCK = 4096
    """Directions that share a generator."""

    @property
    def width(self) -> int:
        """Number of directions."""
        return self._width

    def block(self, number: int) -> Tensor:
        """``[d, directions]``: one block of them."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        count = min(self.BLOCK, self._width - number * self.BLOCK)
        return torch.nn.functional.normalize(torch.randn(self.d, count, generator=generator), dim=0)

    def chunks(self, rows: Tensor, owner: Tensor, texts: int) -> Iterator[Tensor]:
        """See ``ValueSource``."""
        for number in range(-(-self._width // self.BLOCK)):
            yield from Directions(self.block(number), self.pooling).chunks(rows, owner, texts)

    def chosen(self, indices: Tensor, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        """See ``ValueSource``."""
        found = torch.empty(indices.numel(), texts)
        numbers = indices // self.BLOCK
        for number in numbers.unique().tolist():  # one block at a time is in memory
            here = numbers == number
            found[here] = Directions(self.block(number), self.pooling).chosen(indices[here] % self.BLOCK, rows, owner, texts)
        return found


def latent_values(sae: Autoencoder, of: Of, pooling: Pooling) -> ValueSource:
    """The values that a protocol probes; an object without pre-activations is probed on its activations."""
    if of == "pre-activations" and isinstance(sae, SparseAutoencoder):
        return PreActivations(sae, pooling)
    return Activations(sae, pooling)
