from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saebench.results.statistics as statistics
from saebench.results.statistics import RowSums, ratio_estimate, read_columns


def test_a_ratio_and_its_error_are_those_of_the_linearised_estimator() -> None:
    generator = torch.Generator().manual_seed(0)
    b = torch.rand(200, generator=generator, dtype=torch.float64) + 0.5
    a = 2 * b + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    estimate = ratio_estimate(a, b)
    assert estimate.value == pytest.approx(float(a.sum() / b.sum()))
    draws = torch.randint(0, 200, (4000, 200), generator=generator)
    bootstrap = a[draws].sum(1) / b[draws].sum(1)
    assert estimate.standard_error == pytest.approx(float(bootstrap.std()), rel=0.05)


def test_nothing_counted_is_undefined_and_one_group_has_no_error() -> None:
    assert ratio_estimate(torch.zeros(3), torch.zeros(3)) == (None, None)
    assert ratio_estimate(torch.tensor([6.0]), torch.tensor([3.0])) == (2.0, None)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_groups_depend_on_the_rows_and_not_on_the_batches(batches: list[int], most: int) -> None:
    total = sum(batches)
    values = torch.arange(1.0, total + 1)
    before, statistics.MOST_GROUPS = statistics.MOST_GROUPS, 2 * most
    try:
        parts, whole, tokens = RowSums(("a",)), RowSums(("a",)), RowSums(("a",))
        whole.add(a=values)
        for part in values.split(batches):
            parts.add(a=part)
            tokens.start_batch(len(part))
            rows = torch.arange(len(part)).repeat(2)
            tokens.scatter(rows, a=torch.cat([part / 2, part / 2]))
            tokens.end_batch()
    finally:
        statistics.MOST_GROUPS = before
    assert torch.equal(parts.column("a"), whole.column("a"))
    torch.testing.assert_close(tokens.column("a"), whole.column("a"))
    assert whole.total("a") == pytest.approx(total * (total + 1) / 2)
    assert len(whole.column("a")) <= 2 * most
    assert whole.rows_per_group * len(whole.column("a")) >= total


def test_merged_sums_are_as_if_seen_by_one() -> None:
    first, second, both = (RowSums(("a", "b")) for _ in range(3))
    a, b = torch.rand(10), torch.rand(10)
    first.add(a=a[:6], b=b[:6])
    second.add(a=a[6:], b=b[6:])
    both.add(a=a, b=b)
    first.merge(second)
    assert first.ratio("a", "b") == both.ratio("a", "b")
    with pytest.raises(ValueError, match="cannot merge"):
        first.merge(RowSums(("c",)))


def test_merging_keeps_one_grouping_and_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_GROUPS", 4)
    coarse, fine = RowSums(("a",)), RowSums(("a",))
    coarse.add(a=torch.ones(8))  # groups of two
    fine.add(a=torch.full((3,), 10.0))  # groups of one
    coarse.merge(fine)
    assert coarse.rows_per_group == 4
    assert coarse.column("a").tolist() == [4.0, 4.0, 30.0]
    coarse.add(a=torch.ones(1))
    assert coarse.column("a").tolist() == [4.0, 4.0, 30.0, 1.0]


def test_whole_numbers_beyond_any_float_are_no_column() -> None:
    assert read_columns({"a": [10**300, 1.5]}, ["a"]).tolist() == [[1e300], [1.5]]
    with pytest.raises(ValueError, match="the column a is missing or holds something else than numbers"):
        read_columns({"a": [10**400]}, ["a"])
