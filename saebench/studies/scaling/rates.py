"""The best learning rate by size (Gao et al. 2024 scale it as ``1 / sqrt(n)``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saebench.errors import SaebenchError
from saebench.studies.scaling.data import ScalingPoint
from saebench.studies.scaling.laws import Array

SIZES_NEEDED, RATES_NEEDED = 3, 3
REFERENCE_SIZE = 2**14


@dataclass(frozen=True)
class RateLaw:
    """How the best learning rate falls with the number of latents.

    Attributes:
        k: the sparsity at which the law is fitted.
        best: ``n -> rate``: the lowest point of the parabola through the three rates about the best, in logarithms.
        at_edge: sizes whose best rate is the smallest or largest tried: they are excluded.
        curves: ``n -> [(rate, loss)]``.
        coefficient: rate at 16,384 latents under ``rate = coefficient / sqrt(n / 16384)``, with its 95 % interval.
        exponent: of ``rate ~ n^-exponent`` fitted without constraint, with its 95 % interval (Student's t).
        p_value: of the exponent being 1/2.
    """

    k: float
    best: dict[int, float]
    at_edge: list[int]
    curves: dict[int, list[tuple[float, float]]]
    coefficient: tuple[float, float, float]
    exponent: tuple[float, float, float]
    p_value: float


def fit_rates(points: Sequence[ScalingPoint]) -> RateLaw:
    """Fit the best learning rates, at the sparsity with the most points.

    Raises:
        SaebenchError: fewer than three sizes have three rates of which the best is neither smallest nor largest.
    """
    k, curves = _curves(points)
    best, at_edge = {}, []
    for n, curve in curves.items():
        found = lowest(curve)
        if found is None:
            at_edge.append(n)
        else:
            best[n] = found
    if len(best) < SIZES_NEEDED:
        raise SaebenchError(
            f"The learning-rate law needs at least {SIZES_NEEDED} sizes with {RATES_NEEDED} or more rates each, the best of "
            f"them neither the smallest nor the largest; there are {len(best)}."
        )
    sizes, rates = np.log(list(best)), np.log(list(best.values()))
    return RateLaw(k, best, at_edge, curves, *_laws(sizes, rates))


def _curves(points: Sequence[ScalingPoint]) -> tuple[float, dict[int, list[tuple[float, float]]]]:
    rated = [point for point in points if point.lr is not None]
    by_k: dict[float, dict[int, dict[float, float]]] = {}
    for point in rated:
        assert point.lr is not None
        there = by_k.setdefault(point.k, {}).setdefault(point.n, {})
        there[point.lr] = min(point.loss, there.get(point.lr, np.inf))
    full = {
        k: {n: sorted(each.items()) for n, each in sizes.items() if len(each) >= RATES_NEEDED} for k, sizes in by_k.items()
    }
    k = max(full, key=lambda each: (len(full[each]), each), default=0.0)
    return k, dict(sorted(full.get(k, {}).items()))


def lowest(curve: Sequence[tuple[float, float]]) -> float | None:
    """The rate of the lowest loss, interpolated; None where it is at an end of the curve (rates rising)."""
    losses = [loss for _, loss in curve]
    place = int(np.argmin(losses))
    if place in (0, len(curve) - 1):
        return None
    x = np.log([rate for rate, _ in curve[place - 1 : place + 2]])
    a, b, _ = np.polyfit(x - x[1], losses[place - 1 : place + 2], 2)
    return float(np.exp(x[1] - b / (2 * a))) if a > 0 else float(np.exp(x[1]))


def _laws(sizes: Array, rates: Array) -> tuple[tuple[float, float, float], tuple[float, float, float], float]:
    from scipy.stats import linregress, t

    count = sizes.size
    levels = rates + 0.5 * (sizes - np.log(REFERENCE_SIZE))
    half = float(t.ppf(0.975, count - 1)) * float(levels.std(ddof=1)) / count**0.5
    middle = float(levels.mean())
    line = linregress(sizes, rates)
    width = float(t.ppf(0.975, count - 2)) * float(line.stderr)
    slope = -float(line.slope)
    statistic = abs(slope - 0.5) / max(float(line.stderr), 1e-12)
    p_value = float(2 * t.sf(statistic, count - 2))
    coefficient = (float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half)))
    return coefficient, (slope, slope - width, slope + width), p_value
