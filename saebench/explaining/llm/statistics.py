"""Scores with intervals: shares of correct verdicts, correlations, and means over latents. All intervals are 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from saebench.results.statistics import Estimate

Interval = tuple[float, float]
_Z = float(stats.norm.ppf(0.975))


def wilson(right: int, n: int) -> Interval:
    """Interval of a share (Wilson 1927); its width is positive even where all or none are correct."""
    centre, spread = right + _Z**2 / 2, _Z * math.sqrt(right * (n - right) / n + _Z**2 / 4)
    low, high = (centre - spread) / (n + _Z**2), (centre + spread) / (n + _Z**2)
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def balanced_accuracy(verdicts: Sequence[tuple[bool, bool]]) -> tuple[float, Interval] | None:
    """Mean of the shares of correct verdicts among true and among false cases, from pairs (truth, verdict).

    The interval joins the two shares' Wilson intervals as variance estimates recovered from them (Newcombe 1998, method
    10, for a sum). None where one of the two classes has no cases.
    """
    shares, spreads = [], []
    for kind in (True, False):
        right = [verdict == truth for truth, verdict in verdicts if truth is kind]
        if not right:
            return None
        share = sum(right) / len(right)
        low, high = wilson(sum(right), len(right))
        shares.append(share)
        spreads.append((share - low, high - share))
    value = sum(shares) / 2
    below, above = (math.hypot(*(spread[side] for spread in spreads)) / 2 for side in (0, 1))
    return value, (value - below, value + above)


def correlation(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], resamples: int, seed: int
) -> tuple[float, Interval | None] | None:
    """Pearson correlation over all tokens of all windows, from ``(true, simulated)`` of each window.

    A constant simulation scores 0. None where the truth is constant:
    then there is nothing to predict. The interval is a percentile bootstrap over windows, because tokens of one window
    are not independent; None with fewer than two windows.
    """
    sums = np.array([_moments(np.asarray(true, float), np.asarray(simulated, float)) for true, simulated in pairs])
    if not len(sums):
        return None
    value = _pearson(sums.sum(axis=0, keepdims=True))[0]
    if math.isnan(value):
        return None
    if len(sums) < 2:
        return float(value), None
    weights = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    drawn = _pearson(weights @ sums)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (value, value)
    return float(value), (float(min(low, value)), float(max(high, value)))


def mean(values: Sequence[float], bounds: Interval) -> tuple[Estimate, Interval | None]:
    """Mean over latents with its standard error, and Student's interval, clipped to the bounds of the score.

    No interval where there are fewer than two values, or all are equal.
    """
    n = len(values)
    if not n:
        return Estimate(None, None), None
    value = sum(values) / n
    if n < 2:
        return Estimate(value, None), None
    error = math.sqrt(sum((each - value) ** 2 for each in values) / (n - 1) / n)
    if error == 0:  # all equal: their spread does not estimate that of other latents
        return Estimate(value, error), None
    reach = float(stats.t.ppf(0.975, n - 1)) * error
    return Estimate(value, error), (max(value - reach, bounds[0]), min(value + reach, bounds[1]))


def _moments(x: np.ndarray, y: np.ndarray) -> list[float]:
    return [float(len(x)), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]


def _pearson(sums: np.ndarray) -> np.ndarray:
    """``[rows]`` of ``[rows, 6]`` sums: NaN where the first variable is constant, 0 where only the second is."""
    n, x, y, xx, yy, xy = sums.T
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    constant_x, constant_y = spread_x <= 1e-12 * n * xx, spread_y <= 1e-12 * n * yy
    bottom = np.sqrt(np.where(constant_x | constant_y, 1.0, spread_x * spread_y))
    found = np.clip((n * xy - x * y) / bottom, -1.0, 1.0)
    return np.where(constant_x, np.nan, np.where(constant_y, 0.0, found))
