"""Lenses on a metric: pure functions of tables of scores, each with an interval where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, rankdata, t

Array = NDArray[np.float64]
DRAWS = 2000


class Measure(NamedTuple):
    """A number with its 95 % interval; ``value`` is None where it is undefined, as for a metric that is constant."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def correlation(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation; None where one of them is constant."""
    return _pearson(rankdata(x), rankdata(y))


def dose_response(doses: Mapping[str, tuple[Array, Array]], direction: str) -> dict[str, float | None]:
    """By damage the rank correlation of dose and metric, positive where the metric gets worse with the dose.

    Args:
        doses: by damage ``(doses, values)``; ``direction``: ``lower`` or ``higher``, which values are better.
    """
    sign = 1.0 if direction == "lower" else -1.0
    return {kind: correlation(dose, sign * values) for kind, (dose, values) in doses.items()}


def noise(values: Array, errors: Array) -> Measure:
    """The spread of repeated estimates over their stated standard error (root mean square), with a chi-square interval."""
    stated = float(np.sqrt(np.mean(np.square(errors)))) if errors.size else 0.0
    if values.size < 3 or stated == 0 or not np.isfinite(stated):
        return Measure(None)
    ratio, free = float(values.std(ddof=1)) / stated, values.size - 1
    low, high = (ratio * float(np.sqrt(free / chi2.ppf(share, free))) for share in (0.975, 0.025))
    return Measure(ratio, low, high)


def validity(values: Array, recovery: Array, direction: str, seed: int = 0) -> Measure:
    """The rank correlation of a metric with true recovery across autoencoders, positive where better goes with more.

    The interval is a bootstrap's over autoencoders.
    """
    sign = -1.0 if direction == "lower" else 1.0
    value = correlation(sign * values, recovery)
    if value is None:
        return Measure(None)
    rng = np.random.default_rng(seed)
    drawn = [
        found
        for some in rng.integers(0, values.size, (DRAWS, values.size))
        if (found := correlation(sign * values[some], recovery[some])) is not None
    ]
    return Measure(value, *(float(each) for each in np.quantile(drawn, [0.025, 0.975])))


def adds(values: Array, recovery: Array, given: Sequence[Array], direction: str) -> Measure:
    """The partial rank correlation of a metric with true recovery given others, with the p value of a t test."""
    sign = -1.0 if direction == "lower" else 1.0
    known = [rankdata(each) for each in given if np.unique(each).size > 1]
    design = np.column_stack([np.ones(values.size), *known])

    def left(column: Array) -> Array:
        ranks = rankdata(column)
        fitted = design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
        rest = ranks - fitted
        return np.zeros_like(rest) if np.linalg.norm(rest) < 1e-6 * np.linalg.norm(ranks) else rest

    value = _pearson(left(sign * values), left(recovery))
    free = values.size - 2 - len(known)
    if value is None or free < 1:
        return Measure(None)
    size = abs(value) * np.sqrt(free / max(1 - value**2, 1e-12))
    return Measure(value, p=float(2 * t.sf(size, free)))


def resolution(errors: Array) -> float | None:
    """The difference between two autoencoders on other texts that a test at 5 % detects with 80 % power."""
    stated = float(np.sqrt(np.mean(np.square(errors)))) if errors.size else 0.0
    return (1.96 + 0.84) * stated * float(np.sqrt(2)) if stated and np.isfinite(stated) else None


def _pearson(x: Array, y: Array) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else None
