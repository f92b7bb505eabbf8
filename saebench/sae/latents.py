"""Sparse codes: which latents are active at each token, and how strongly. Dense codes are never materialised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseLatents:
    """The active latents of a block of tokens.

    Attributes:
        indices: ``[tokens, slots]`` int64, latent numbers. An empty slot has index 0 and value 0.
        values: ``[tokens, slots]``, activations. A latent is active where its value is not 0.
        n_latents: width of the dictionary, so that ``indices < n_latents``.
        shift: ``[tokens, 1]`` or None: decoding adds it after multiplying by ``factor``, to return to the model's own units.
        factor: ``[tokens, 1]`` or None: decoding multiplies by it, to return to the model's own units.
    """

    indices: Tensor
    values: Tensor
    n_latents: int
    shift: Tensor | None = None
    factor: Tensor | None = None

    @property
    def active(self) -> Tensor:
        """``[tokens, slots]`` bool: the slots that hold an active latent."""
        return self.values != 0

    def l0(self) -> Tensor:
        """``[tokens]`` int64: the number of active latents at each token."""
        return self.active.sum(dim=-1)

    def l1(self) -> Tensor:
        """``[tokens]``: the sum of absolute activations at each token."""
        return self.values.abs().sum(dim=-1)

    def largest(self, k: int) -> SparseLatents:
        """Only the ``k`` activations of largest magnitude of each token (all of them where there are fewer)."""
        if k >= self.values.shape[-1]:
            return self
        slots = self.values.abs().topk(k, dim=-1).indices
        return replace(self, indices=self.indices.gather(-1, slots), values=self.values.gather(-1, slots))

    def where(self, keep: Tensor) -> SparseLatents:
        """The same code with the slots outside ``keep`` (``[tokens, slots]`` bool) emptied."""
        return replace(self, indices=self.indices * keep, values=self.values * keep)

    def rows(self, selection: Tensor | slice) -> SparseLatents:
        """The code of some of the tokens."""
        return replace(
            self,
            indices=self.indices[selection],
            values=self.values[selection],
            shift=None if self.shift is None else self.shift[selection],
            factor=None if self.factor is None else self.factor[selection],
        )

    def to_dense(self) -> Tensor:
        """``[tokens, n_latents]``. For small dictionaries and tests: nothing in the evaluators calls it at full width."""
        dense = self.values.new_zeros(self.values.shape[0], self.n_latents)
        return dense.scatter_add_(-1, self.indices, self.values)

    @staticmethod
    def from_dense(dense: Tensor) -> SparseLatents:
        """Gather the non-zero entries of ``dense`` (``[tokens, n_latents]``), in order of latent number."""
        rows, columns = dense.nonzero(as_tuple=True)
        return SparseLatents(*pack_slots(rows, columns, dense[rows, columns], dense.shape[0]), dense.shape[1])


def pack_slots(rows: Tensor, columns: Tensor, values: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Turn coordinates into slots: ``(indices, values)``, each ``[n_rows, most entries in a row]``.

    ``rows``, ``columns`` and ``values`` are ``[entries]``; entries of one row need not be adjacent, and keep their order.
    """
    order = rows.argsort(stable=True)
    rows, columns, values = rows[order], columns[order], values[order]
    counts = torch.bincount(rows, minlength=n_rows)
    slots = int(counts.max()) if n_rows and rows.numel() else 0
    starts = counts.cumsum(0) - counts
    places = torch.arange(rows.numel(), device=rows.device) - starts[rows]
    packed_columns = columns.new_zeros(n_rows, slots)
    packed_values = values.new_zeros(n_rows, slots)
    packed_columns[rows, places] = columns
    packed_values[rows, places] = values
    return packed_columns, packed_values
