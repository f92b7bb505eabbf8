"""Matryoshka BatchTopK: prefixes of the dictionary must reconstruct alone (Bussmann et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saebench.sae.sparse_ops import Entries, sparse_decode
from saebench.training.objectives.batchtopk import BatchTopK
from saebench.training.recipe import normalised_error


class Matryoshka(BatchTopK):
    """BatchTopK once over all latents; the loss is the mean over prefixes of their own errors."""

    name = "matryoshka"
    axes: ClassVar[tuple[str, ...]] = ("replicas",)  # a prefix is not a slice of each shard

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """The configured sizes, else groups of 1/16, 1/16, 1/8, 1/4 and the rest."""
        if self.config.group_sizes:
            return self.config.group_sizes
        n = self.weights.n
        parts = [part for part in (n // 16, n // 16, n // 8, n // 4) if part]
        return (*parts, n - sum(parts))

    def reconstruct(self, x: Tensor, entries: Entries, values: Tensor) -> tuple[Tensor, Tensor]:
        """Groups are decoded one after the other; each cumulative sum is a prefix's reconstruction."""
        reconstruction = self.weights.b_dec.expand(x.shape[0], -1)
        errors: list[Tensor] = []
        start = 0
        for size in self.group_sizes:
            inside = ((entries.columns >= start) & (entries.columns < start + size)).nonzero().flatten()
            part = Entries(entries.rows[inside], entries.columns[inside], entries.tokens)
            reconstruction = reconstruction + sparse_decode(part, values[inside], self.weights.decoder)
            errors.append(normalised_error(reconstruction, x, self.variance))
            start += size
        total = errors[0]
        for error in errors[1:]:
            total = total + error
        return reconstruction, total / len(errors)
