"""What a lens found, and the rank statistics that lenses share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["passed", "care", "failed", "not known"]
Values = NDArray[np.float64]
RESAMPLES = 500


@dataclass(frozen=True)
class Finding:
    """The finding of one lens on one metric.

    Attributes:
        lens: its name; ``outcome``: against the thresholds, ``not known`` where it could not be run.
        sentence: the finding in words.
        value: its main number; ``low``, ``high``: 95 % interval.
        details: further numbers.
    """

    lens: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def array(values: Sequence[float | None]) -> Values:
    """As float64; None becomes NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def ranked(values: Values) -> Values:
    """Ranks with ties averaged."""
    from scipy.stats import rankdata

    found: Values = rankdata(values)
    return found


def correlation(first: Values, second: Values) -> float:
    """Pearson's correlation; 0 where either is constant: what does not vary follows nothing."""
    a, b = first - first.mean(), second - second.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else 0.0


def spearman(first: Values, second: Values) -> float:
    """Rank correlation; 0 where either is constant."""
    return correlation(ranked(first), ranked(second))


def row_spearman(rows: Values, other: Values) -> Values:
    """``[draws]``: ``spearman`` of each row of ``[draws, items]`` with ``other``."""
    from scipy.stats import rankdata

    a, b = rankdata(rows, axis=1), ranked(other)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean()
    size = np.sqrt((a * a).sum(axis=1) * (b @ b))
    found: Values = np.where(size > 1e-12, (a @ b) / np.maximum(size, 1e-12), 0.0)
    return found


def partial_spearman(first: Values, second: Values, given: Sequence[Values]) -> float:
    """Rank correlation given others: of the residuals of ranks after a linear fit to the others' ranks.

    0 where nothing remains of either: it is a function of the others.
    """
    design = np.column_stack([np.ones(len(first)), *(ranked(each) for each in given)])
    left = []
    for each in (ranked(first), ranked(second)):
        residual = each - design @ np.linalg.lstsq(design, each, rcond=None)[0]
        left.append(residual if residual.std() > 1e-6 * len(each) else np.zeros_like(each))
    return correlation(left[0], left[1])


def bootstrap(count: int, statistic: Callable[[NDArray[np.int64]], float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of ``count`` items, which gets the numbers of the resampled ones."""
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def unknown(lens: str, reason: str) -> Finding:
    """A lens that could not be run, and why."""
    return Finding(lens, "not known", reason)
