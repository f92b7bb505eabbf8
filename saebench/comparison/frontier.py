"""Curves of fidelity over sparsity, and their values at matched sparsity.

Autoencoders are compared at equal L0 by interpolating each curve piecewise linearly between its measured points, with both
axes logarithmic (Gao et al. 2024, figure 2, draws such curves). Nothing is extrapolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saebench.comparison.headline import L0, architecture_of, find_metric
from saebench.comparison.samples import Sample, combine, sample
from saebench.comparison.verdicts import Verdict, compare_samples
from saebench.errors import SaebenchError
from saebench.results import Result

By = Literal["arch", "k", "n"]
BY: tuple[By, ...] = ("arch", "k", "n")


@dataclass(frozen=True)
class Curve:
    """Results that differ in sparsity alone (or, compared by ``k``, in width alone), in order of it.

    Attributes:
        group: the group that is compared; ``stratum``: what it has in common with the curves it is compared with.
    """

    group: str
    stratum: str
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        """Group and stratum."""
        return f"{self.group}, {self.stratum}"


@dataclass(frozen=True)
class Point:
    """A place on a curve."""

    x: Sample
    y: Sample
    result: Result


@dataclass(frozen=True)
class Matched:
    """A metric of one curve at a place, against the reference curve at the same place.

    Attributes:
        at: the L0 (or number of latents) at which they are compared.
        verdict: None for the reference itself.
        interpolated: False where the place is a measured point.
    """

    metric: str
    curve: Curve
    at: float
    value: Sample
    verdict: Verdict | None
    interpolated: bool


def x_name(by: By) -> str:
    """What curves run over: L0, or the number of latents where L0 is what is compared."""
    return "n_latents" if by == "k" else L0


def curves(results: Sequence[Result], by: By) -> list[Curve]:
    """Results sorted into curves: one for each group within each stratum.

    Compared by ``arch`` each curve is one architecture at one width; by ``n`` the curves are the same, with the width as
    group and the architecture as stratum; by ``k`` a curve is one architecture at one k over widths.
    """
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        arch, n, k = architecture_of(result), f"n = {result.sae.n_latents:,}", f"k = {nominal_k(result)}"
        keys = {"arch": (arch, n), "n": (n, arch), "k": (k, arch)}[by]
        found.setdefault(keys, []).append(result)
    return [
        Curve(group, stratum, tuple(sorted(members, key=lambda each: _x(each, by).value)))
        for (group, stratum), members in found.items()
    ]


def nominal_k(result: Result) -> int:
    """The k that an autoencoder was built for, else its measured L0, rounded."""
    given = result.sae.activation.get("k")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    measured = sample(result, L0)
    return round(measured.value) if measured is not None else 0


def points(curve: Curve, path: str, by: By) -> list[Point]:
    """The measured points of a metric, in order of sparsity; those without a positive value cannot be drawn."""
    found = []
    for result in curve.results:
        x, y = _x(result, by), sample(result, path)
        if y is not None and y.value > 0 and x.value > 0:
            found.append(Point(x, y, result))
    return found


def interpolate(given: Sequence[Point], at: float) -> tuple[Sample, bool] | None:
    """``(value, interpolated)`` of a curve at ``at``, piecewise linear in logarithms; None outside the measured range.

    The error combines those of both neighbouring points, in L0 and in the metric, with their covariance.
    """
    place = math.log(at)
    for point in given:
        if math.isclose(point.x.value, at, rel_tol=1e-6):
            return point.y, False
    for low, high in itertools.pairwise(given):
        x_low, x_high = low.x.log(), high.x.log()
        if not x_low.value < place < x_high.value:
            continue
        y_low, y_high = low.y.log(), high.y.log()
        share = (place - x_low.value) / (x_high.value - x_low.value)
        slope = (y_high.value - y_low.value) / (x_high.value - x_low.value)
        weighted = [(1 - share, y_low), (share, y_high), (-slope * (1 - share), x_low), (-slope * share, x_high)]
        log_value = (1 - share) * y_low.value + share * y_high.value
        return replace(combine(weighted), value=log_value).exp(), True
    return None


def places(groups: Sequence[Sequence[Point]], wanted: Sequence[float]) -> list[float]:
    """Where curves are compared: the given places, else the first curve's points within the ranges of all curves.

    Raises:
        SaebenchError: a place is not a positive number.
    """
    if any(not math.isfinite(place) or place <= 0 for place in wanted):
        raise SaebenchError("--at takes positive numbers: the L0 at which to compare.")
    if wanted:
        return sorted(set(wanted))
    filled = [group for group in groups if group]
    if len(filled) < 2:
        return []
    low = max(group[0].x.value for group in filled)
    high = min(group[-1].x.value for group in filled)
    measured = sorted({point.x.value for group in filled for point in group if low <= point.x.value <= high})
    first = [point.x.value for point in filled[0] if low <= point.x.value <= high]
    return first or measured


def matched(found: Sequence[Curve], path: str, by: By, wanted: Sequence[float], one_benchmark: bool) -> list[Matched]:
    """A metric of all curves at matched places; within each stratum against its first curve."""
    rows: list[Matched] = []
    ordered = sorted(found, key=lambda curve: curve.results[0].sae.n_latents) if by == "arch" else found
    for stratum in dict.fromkeys(curve.stratum for curve in ordered):
        members = [(curve, points(curve, path, by)) for curve in found if curve.stratum == stratum]
        members = [(curve, measured) for curve, measured in members if measured]
        for place in places([measured for _, measured in members], wanted):
            values = [(curve, interpolate(measured, place)) for curve, measured in members]
            rows += _against_first(path, place, [(curve, each) for curve, each in values if each is not None], one_benchmark)
    return rows


def _against_first(
    path: str, place: float, values: list[tuple[Curve, tuple[Sample, bool]]], one_benchmark: bool
) -> list[Matched]:
    """Every curve's value at a place, with the verdict against the first; nothing where there is only one curve."""
    rows = []
    for index, (curve, (value, interpolated)) in enumerate(values):
        metric = next(found for result in curve.results if (found := find_metric(result, path)) is not None)
        verdict = None
        if index and metric.direction != "none":
            verdict = compare_samples(values[0][1][0], value, path, metric.unit, metric.direction, one_benchmark)
        rows.append(Matched(path, curve, place, value, verdict, interpolated))
    return rows if len(rows) > 1 else []


def _x(result: Result, by: By) -> Sample:
    """A result's place on the horizontal axis; 0, which is not drawn, where its L0 is unknown."""
    if by == "k":
        return Sample(float(result.sae.n_latents), 0.0)
    return sample(result, L0) or Sample(0.0, None)
