"""The activations of a random sample of latents, collected in one pass over a text."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_ENTRIES = 2**25
"""Activations kept at once: 384 MiB."""


class Entries:
    """Counts of every latent's activations, and all activations of the first latents in a random order.

    Where there are too many, the latents at the end of the order are dropped, half of them at a time; which ones depends on
    the whole text, not on its batches.

    Args:
        n_latents: of the dictionary.
        seed: of the order.
        most: activations kept.
    """

    def __init__(self, n_latents: int, seed: int, most: int = MOST_ENTRIES) -> None:
        self.order = torch.randperm(n_latents, generator=torch.Generator().manual_seed(seed))
        self._rank = torch.empty_like(self.order)
        self._rank[self.order] = torch.arange(n_latents)
        self.counts = torch.zeros(n_latents, dtype=torch.int64)
        self._kept, self._most = n_latents, most
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, latents: Tensor, places: Tensor, values: Tensor) -> None:
        """Add activations, ``[entries]`` each: latent, place in the text, magnitude; places rise from call to call."""
        self.counts += torch.bincount(latents, minlength=self.counts.numel())
        self._parts.append(self._filtered(latents, places, values.float()))
        while self._kept > 1 and sum(part[0].numel() for part in self._parts) > self._most:
            self._kept //= 2
            self._parts = [self._filtered(*part) for part in self._parts]

    def merge(self, other: Entries) -> None:
        """Add the activations of later places."""
        self._kept = min(self._kept, other._kept)
        counts = self.counts + other.counts
        self._parts = [self._filtered(*part) for part in self._parts]
        for part in other._parts:
            self.add(*self._filtered(*part))
        self.counts = counts

    def _filtered(self, latents: Tensor, places: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep = self._rank[latents] < self._kept
        return latents[keep], places[keep].int(), values[keep]

    def live(self, more_than: int) -> Tensor:
        """``[live]``: kept latents with more than that many activations, in the random order."""
        first = self.order[: self._kept]
        return first[self.counts[first] > more_than]

    def of(self, latents: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """``(places, magnitudes)`` of each latent, by place."""
        if not self._parts:
            return {}
        wanted = torch.tensor(sorted(latents), dtype=torch.int64)
        parts = []
        for part in self._parts:
            mine = torch.isin(part[0], wanted)
            parts.append(tuple(each[mine] for each in part))
        numbers, places, values = (torch.cat(each) for each in zip(*parts, strict=True))
        order = numbers.argsort(stable=True)
        starts = torch.searchsorted(numbers[order], wanted).tolist()
        ends = torch.searchsorted(numbers[order], wanted, right=True).tolist()
        found = {}
        for latent, start, end in zip(wanted.tolist(), starts, ends, strict=True):
            found[latent] = (places[order[start:end]].long(), values[order[start:end]])
        return found
