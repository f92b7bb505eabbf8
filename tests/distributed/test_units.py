"""Units of work: shards of the text, what a unit gave as bytes, and sums of parts."""

from __future__ import annotations

import pytest
import torch

from saebench.distributed.units import Done, packs, shards
from saebench.evaluators.shared import Moments


def test_shards_are_whole_batches_and_packs_are_even() -> None:
    assert shards(rows=300, context=128, rows_per_batch=8) == [(0, 128), (128, 256), (256, 300)]
    assert shards(rows=5, context=100_000, rows_per_batch=2) == [(0, 2), (2, 4), (4, 5)]
    assert shards(rows=100, context=128, rows_per_batch=7) == [(0, 100)]  # 7 * 16 rows
    assert packs(range(10), 4) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert packs(range(9), 8) == [(0, 1, 2, 3, 4), (5, 6, 7, 8)]


def test_what_a_unit_gave_survives_as_bytes() -> None:
    done = Done({"0/a": torch.arange(3)}, {4: "{}"}, {4: ["{}"]}, {5: "no"}, {"0/b": "bad"}, {"losses": 1.5})
    again = Done.from_bytes(done.to_bytes())
    assert torch.equal(again.tensors.pop("0/a"), done.tensors.pop("0/a")) and again == done
    assert Done.from_bytes(Done(rejected={1: "x"}).to_bytes()).rejected == {1: "x"}


def test_moments_of_parts_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(60, 5, generator=generator) + 100
    rows, groups = torch.arange(60) // 6, {"position": torch.arange(60) % 6, "frequency": torch.arange(60) % 2}
    whole, first, second = (Moments(6, 2) for _ in range(3))
    whole.update(targets, rows, 10, groups)
    for part, mine in ((first, slice(0, 24)), (second, slice(24, 60))):
        start = int(rows[mine][0])
        part.update(targets[mine], rows[mine] - start, 4 if part is first else 6, {k: v[mine] for k, v in groups.items()})
    again = Moments(6, 2)
    again.restore(second.tensors(), torch.device("cpu"))
    first.merge(again)
    assert first.count == whole.count == 60
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(first.variance_by_row(), whole.variance_by_row(), rtol=1e-6, atol=0)
    assert first.variance == pytest.approx(float((targets - targets.mean(0)).double().square().sum()), rel=1e-6)
    assert first.unit_variance == pytest.approx(whole.unit_variance, rel=1e-12)
    for name in groups:
        torch.testing.assert_close(first.variance_by(name)[1], whole.variance_by(name)[1], rtol=1e-6, atol=1e-9)
