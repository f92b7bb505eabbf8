"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], most: int, filling: int | None = None) -> list[list[int]]:
    """Indices of sequences by descending length, so that each batch begins with its longest.

    Args:
        lengths: tokens of each sequence.
        most: tokens of a batch, with padding; a longer sequence is a batch of its own.
        filling: maximum padding tokens of a batch; unlimited by default.
    """
    batches: list[list[int]] = []
    longest = filled = 0
    for number in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        fits = batches and longest * (len(batches[-1]) + 1) <= most
        if fits and (filling is None or filled + longest - lengths[number] <= filling):
            batches[-1].append(number)
            filled += longest - lengths[number]
        else:
            batches.append([number])
            longest, filled = lengths[number], 0
    return batches
