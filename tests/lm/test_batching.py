"""Batches of sequences of different lengths."""

from __future__ import annotations

from saebench.lm.batching import batches_by_length


def test_every_sequence_is_in_one_batch_and_none_is_too_large() -> None:
    lengths = [3, 9, 1, 4, 4, 30, 2]
    assert batches_by_length(lengths, 12) == [[5], [1], [3, 4, 0], [6, 2]]
    assert batches_by_length([], 12) == []


def test_a_batch_is_filled_up_so_far_only() -> None:
    assert batches_by_length([8, 8, 7, 5, 5, 1], 100) == [[0, 1, 2, 3, 4, 5]]
    assert batches_by_length([8, 8, 7, 5, 5, 1], 100, 4) == [[0, 1, 2, 3], [4, 5]]
    assert batches_by_length([8, 8, 7, 5, 5, 1], 100, 0) == [[0, 1], [2], [3, 4], [5]]
