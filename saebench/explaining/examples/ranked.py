"""The top activations of every latent, updated over a stream, with the activations around them.

``Ranked`` is a bounded heap per latent for all latents at once: a batch's activations are first compared with the worst
key that each latent keeps, and only larger ones are merged, by sorting. Keys are activations for the
strongest examples and random numbers for a uniform sample (a reservoir: the largest of independent uniform keys).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Activations(NamedTuple):
    """All activations of some whole rows of text, sorted by latent and then by position.

    Attributes:
        latents: ``[entries]`` int64.
        places: ``[entries]`` int64, ``row * context + position`` in the corpus.
        values: ``[entries]`` float32, never 0.
    """

    latents: Tensor
    places: Tensor
    values: Tensor

    @staticmethod
    def sort(latents: Tensor, places: Tensor, values: Tensor) -> Activations:
        """Sort entries; each (latent, place) occurs once."""
        order = places.argsort(stable=True)
        order = order[latents[order].argsort(stable=True)]
        return Activations(latents[order], places[order], values[order])


class Windows:
    """Ragged lists: for each kept example the activations of its latent around it. Numbered in order of arrival."""

    def __init__(self, device: torch.device) -> None:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        self._parts = [(empty, empty.int(), empty.float())]  # counts, offsets from the example's place, values
        self._size, self._settled = 0, 0
        self.stored = 0

    def append(self, counts: Tensor, offsets: Tensor, values: Tensor) -> int:
        """Add lists; returns the number of the first of them."""
        first = self._size
        self._parts.append((counts, offsets.int(), values))
        self._size += counts.numel()
        self.stored += offsets.numel()
        return first

    @property
    def mostly_unused(self) -> bool:
        """Whether unreferenced lists may use more memory than the others."""
        return self.stored > 2 * self._settled + (1 << 20)

    def gather(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(counts, offsets, values)`` of the lists ``numbers``, concatenated."""
        all_counts, offsets, values = (torch.cat(part) for part in zip(*self._parts, strict=True))
        self._parts = [(all_counts, offsets, values)]
        starts = (all_counts.cumsum(0) - all_counts)[numbers]
        counts = all_counts[numbers]
        picked = ragged_ranges(starts, counts)
        return counts, offsets[picked], values[picked]

    def keep(self, numbers: Tensor) -> None:
        """Drop all lists but these, which are renumbered from 0 in this order."""
        kept = self.gather(numbers)
        self._parts, self._size = [kept], numbers.numel()
        self.stored = self._settled = kept[1].numel()


def ragged_ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """``starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ...``."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(starts - before, counts) + torch.arange(int(counts.sum()), device=starts.device)


class Ranked:
    """For each latent the ``size`` activations with the largest keys; the earliest among equal keys.

    Attributes:
        keys: ``[n, size]`` float64, in descending order; minus infinity where there is none.
        places: ``[n, size]`` int64; -1 where there is none.
        values: ``[n, size]`` float32.
    """

    def __init__(self, n_latents: int, size: int, context: int, window: tuple[int, int], device: torch.device) -> None:
        self._context, self._window = context, window
        self.keys = torch.full((n_latents, size), -torch.inf, dtype=torch.float64, device=device)
        self.places = torch.full((n_latents, size), -1, dtype=torch.int64, device=device)
        self.values = torch.zeros(n_latents, size, device=device)
        self._lists = torch.full((n_latents, size), -1, dtype=torch.int64, device=device)
        self._windows = Windows(device)

    def update(self, batch: Activations, keys: Tensor, one_per_row: bool) -> None:
        """Add later rows.

        Args:
            batch: their activations.
            keys: ``[entries]`` float64, by which the activations are ranked.
            one_per_row: of each latent and row of text, only the entry with the largest key is considered.
        """
        beats = (keys > self.keys[batch.latents, -1]).nonzero().squeeze(1)
        if one_per_row:
            beats = beats[_first_largest(batch.latents[beats], batch.places[beats] // self._context, keys[beats])]
        if beats.numel() == 0:
            return
        self._merge(batch, beats, keys[beats])
        if self._windows.mostly_unused:
            filled = self._lists >= 0
            self._windows.keep(self._lists[filled])
            self._lists[filled] = torch.arange(int(filled.sum()), device=filled.device)

    def _merge(self, batch: Activations, entries: Tensor, keys: Tensor) -> None:
        """Merge the batch's ``entries`` (in order of latent) into their latents' lists."""
        touched, which = torch.unique_consecutive(batch.latents[entries], return_inverse=True)
        size = self.keys.shape[1]
        old = torch.arange(touched.numel(), device=touched.device).repeat_interleave(size)
        owner = torch.cat([old, which])
        all_keys = torch.cat([self.keys[touched].flatten(), keys])
        # Stable sorts keep earlier entries first among equal keys: kept entries are older than the batch's.
        order = all_keys.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        counts = torch.bincount(owner, minlength=touched.numel())
        rank = torch.arange(order.numel(), device=order.device) - (counts.cumsum(0) - counts)[owner[order]]
        kept = order[rank < size].view(-1, size)  # each updated latent has at least its old slots
        is_new = kept >= old.numel()
        new = entries[kept[is_new] - old.numel()]
        first = self._windows.append(*self._around(batch, new))
        lists = torch.cat([self._lists[touched].flatten(), keys.new_full(keys.shape, -1).long()])[kept]
        lists[is_new] = first + torch.arange(new.numel(), device=new.device)
        self._lists[touched] = lists
        self.keys[touched] = all_keys[kept]
        self.places[touched] = torch.cat([self.places[touched].flatten(), batch.places[entries]])[kept]
        self.values[touched] = torch.cat([self.values[touched].flatten(), batch.values[entries]])[kept]

    def _around(self, batch: Activations, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(counts, offsets, values)``: the same latent's activations in the same row, within the window."""
        latents, places = batch.latents[entries], batch.places[entries]
        row_start = places // self._context * self._context
        first = torch.maximum(places - self._window[0], row_start)
        last = torch.minimum(places + self._window[1], row_start + self._context - 1)
        stride = int(batch.places.max()) + self._context + 1
        sorted_keys = batch.latents * stride + batch.places
        starts = torch.searchsorted(sorted_keys, latents * stride + first)
        counts = torch.searchsorted(sorted_keys, latents * stride + last, right=True) - starts
        picked = ragged_ranges(starts, counts)
        return counts, batch.places[picked] - places.repeat_interleave(counts), batch.values[picked]

    def windows(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(counts, offsets, values)`` of latents ``start`` to ``stop``: ``counts`` is ``[latents, size]``."""
        lists = self._lists[start:stop]
        filled = lists >= 0
        counts, offsets, values = self._windows.gather(lists[filled])
        padded = torch.zeros_like(lists)
        padded[filled] = counts
        return padded, offsets, values


def _first_largest(latents: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
    """The entry with the largest key (the first of equals) of each run of equal (latent, row)."""
    if keys.numel() == 0:
        return keys.long()
    pairs = torch.stack([latents, rows], dim=1)
    group = torch.unique_consecutive(pairs, dim=0, return_inverse=True)[1]
    largest = keys.new_full((int(group[-1]) + 1,), -torch.inf).scatter_reduce_(0, group, keys, "amax")
    best = (keys == largest[group]).nonzero().squeeze(1)
    fresh = torch.ones_like(best, dtype=torch.bool)
    fresh[1:] = group[best[1:]] != group[best[:-1]]
    return best[fresh]


def uniform_keys(latents: Tensor, places: Tensor, seed: int) -> Tensor:
    """Independent uniform numbers in [0, 1) that depend on latent, position and seed alone: ``[entries]`` float64.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014) of the three; integers wrap as in C.
    """
    mixed = _mix(places + _mix(latents + _mix(torch.full_like(latents, seed))))
    return _shifted(mixed, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical right shift of int64: the sign bits shifted in are cleared."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
