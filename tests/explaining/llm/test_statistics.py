"""Scores and intervals against independent versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from saebench.explaining.llm.statistics import balanced_accuracy, correlation, mean, wilson


@given(n=st.integers(1, 200), share=st.floats(0, 1))
def test_wilson(n: int, share: float) -> None:
    right = round(share * n)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_balanced_accuracy(verdicts: list[tuple[bool, bool]]) -> None:
    truth, said = zip(*verdicts, strict=True)
    found = balanced_accuracy(verdicts)
    if len(set(truth)) < 2:
        assert found is None
        return
    assert found is not None
    value, (low, high) = found
    assert value == pytest.approx(balanced_accuracy_score(truth, said))
    assert 0 <= low <= value <= high <= 1 and high > low


def test_the_interval_of_balanced_accuracy_covers() -> None:
    """Shares of 0.8 and 0.6 in 20 cases each: 95 % of the intervals should hold 0.7."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        verdicts = [(True, bool(right)) for right in draw.random(20) < 0.8]
        verdicts += [(False, not right) for right in draw.random(20) < 0.6]
        found = balanced_accuracy(verdicts)
        assert found is not None
        held += found[1][0] <= 0.7 <= found[1][1]
    assert 0.93 < held / 1000 < 0.98


values = st.lists(st.integers(0, 10), min_size=4, max_size=4)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=6), st.floats(0.1, 1e6))
@settings(deadline=None)
def test_correlation(pairs: list[tuple[list[int], list[int]]], scale: float) -> None:
    true, simulated = (np.concatenate([pair[side] for pair in pairs]).astype(float) for side in (0, 1))
    found = correlation([([scale * x for x in one], other) for one, other in pairs], 50, 0)
    if np.ptp(true) == 0:
        assert found is None
        return
    assert found is not None
    expected = 0.0 if np.ptp(simulated) == 0 else np.corrcoef(true, simulated)[0, 1]
    assert found[0] == pytest.approx(expected, abs=1e-9)
    assert (found[1] is None) == (len(pairs) == 1)
    if found[1] is not None:
        assert -1 <= found[1][0] <= found[0] <= found[1][1] <= 1


def test_correlation_of_known_answers() -> None:
    truth = [[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 2.0, 0.0]]
    assert correlation([(each, [2 * x for x in each]) for each in truth], 100, 0) == (1.0, (1.0, 1.0))
    assert correlation([(each, [-x for x in each]) for each in truth], 100, 0) == (-1.0, (-1.0, -1.0))
    silent = correlation([(each, [0.0] * 4) for each in truth], 100, 0)
    assert silent is not None and silent[0] == 0.0
    assert correlation([([0.0, 0.0], [1.0, 2.0])], 100, 0) is None and correlation([], 100, 0) is None


def test_mean() -> None:
    estimate, interval = mean([0.2, 0.4, 0.9], (0.0, 1.0))
    sample = np.array([0.2, 0.4, 0.9])
    expected = stats.t.interval(0.95, 2, sample.mean(), stats.sem(sample))
    assert estimate.value == pytest.approx(0.5) and estimate.standard_error == pytest.approx(stats.sem(sample))
    assert interval is not None and interval == pytest.approx((max(expected[0], 0), min(expected[1], 1)))
    assert mean([0.5], (0.0, 1.0)) == ((0.5, None), None)
    assert mean([0.5, 0.5], (0.0, 1.0)) == ((0.5, 0.0), None)
    assert mean([], (0.0, 1.0)) == ((None, None), None) and not math.isnan(estimate.value or 0)
