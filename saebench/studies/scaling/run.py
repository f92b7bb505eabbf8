"""Scaling laws (Gao et al. 2024, section 3) of autoencoders that were trained or evaluated already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saebench.errors import SaebenchError
from saebench.studies.scaling.data import (
    DEFAULT_METRIC,
    ScalingPoint,
    best_of_each,
    frontier,
    one_architecture,
    read_points,
)
from saebench.studies.scaling.forms import JOINT, JOINT_REDUCED, power, power_with_offset
from saebench.studies.scaling.laws import Array, Comparison, compare
from saebench.studies.scaling.rates import RateLaw, fit_rates

FITS = ("size", "joint", "compute", "rate")
LEVELS_NEEDED = 3
"""Number of different values of n, and of k, that the joint law needs."""


@dataclass(frozen=True)
class Law:
    """A fitted law with the points behind it.

    Attributes:
        key: ``size_k32``, ``joint`` or ``compute``.
        names: the points', in order; ``features``: uncentred logarithms ``[points, f]``; ``losses``: ``[points]``.
        found: the fits with and without the irreducible term.
    """

    key: str
    names: list[str]
    features: Array
    losses: Array
    found: Comparison


@dataclass(frozen=True)
class ScalingStudy:
    """A finished study.

    Attributes:
        points: all of them, of one architecture; ``metric``: what their losses are.
        laws: those that could be fitted, by key; ``rates``: the learning-rate law, where there is one.
        refused: what could not be fitted, and why.
        bootstraps, seed: behind the intervals.
    """

    points: list[ScalingPoint]
    metric: str
    laws: dict[str, Law]
    rates: RateLaw | None
    refused: dict[str, str]
    bootstraps: int
    seed: int


def scaling_study(
    paths: Sequence[Path],
    *,
    metric: str = DEFAULT_METRIC,
    arch: str | None = None,
    fits: Sequence[str] = (),
    bootstraps: int = 400,
    seed: int = 0,
) -> ScalingStudy:
    """Fit the laws that the points allow.

    ``size``: loss against latents at each number of active latents, with and without an irreducible part. ``joint``: loss
    against both. ``compute``: the Pareto frontier of loss against training compute, at the number of active
    latents with the most runs (the largest of several). ``rate``: the best learning rate against latents. Where learning
    rates were swept, ``size`` and ``joint`` take the best of each.

    Args:
        paths: result files, checkpoints, or folders of them.
        metric: of result files.
        arch: which architecture, where there are several.
        fits: those that must succeed; by default all that the points allow.
        bootstraps: refits behind each interval.
        seed: of the bootstrap.

    Raises:
        SaebenchError: a requested fit, or every fit, has too few points; the message says how many are needed.
    """
    unknown = sorted(set(fits) - set(FITS))
    if unknown:
        raise SaebenchError(f"There is no fit {', '.join(unknown)}; there are: {', '.join(FITS)}.")
    if bootstraps < 20:
        raise SaebenchError(f"{bootstraps} bootstrap refits give no interval: use at least 20.")
    points = one_architecture(read_points(paths, metric), arch)
    return fit_points(points, metric, fits=fits, bootstraps=bootstraps, seed=seed)


def fit_points(
    points: list[ScalingPoint], metric: str, *, fits: Sequence[str] = (), bootstraps: int = 400, seed: int = 0
) -> ScalingStudy:
    """``scaling_study`` of points that were already read."""
    study = ScalingStudy(points, metric, {}, None, {}, bootstraps, seed)
    rates: RateLaw | None = None
    for name in fits or FITS:
        try:
            if name == "rate":
                rates = fit_rates(points)
            else:
                study.laws.update({law.key: law for law in _fitted(name, study)})
        except SaebenchError as error:
            if name in fits:
                raise
            study.refused[name] = str(error)
    if not study.laws and rates is None:
        raise SaebenchError(f"Nothing can be fitted to {len(points)} points. {' '.join(study.refused.values())}")
    return ScalingStudy(points, metric, study.laws, rates, study.refused, bootstraps, seed)


def _fitted(name: str, study: ScalingStudy) -> list[Law]:
    if name == "size":
        return _size_laws(study)
    return [_joint_law(study) if name == "joint" else _compute_law(study)]


def _size_laws(study: ScalingStudy) -> list[Law]:
    by_k: dict[float, list[ScalingPoint]] = {}
    for point in best_of_each(study.points):
        by_k.setdefault(point.k, []).append(point)
    needed = power_with_offset("N").needed
    most = max(len(each) for each in by_k.values())
    if most < needed:
        raise SaebenchError(
            f"The law L(N) needs at least {needed} sizes at one number of active latents; there are at most {most}."
        )
    laws = []
    for k, points in sorted(by_k.items()):
        if len(points) >= needed:
            features = np.log([[point.n] for point in points])
            laws.append(_law(f"size_k{k:g}", points, features, study, "N"))
    return laws


def _joint_law(study: ScalingStudy) -> Law:
    points = best_of_each(study.points)
    sizes, sparsities = {point.n for point in points}, {point.k for point in points}
    if len(points) < JOINT.needed or min(len(sizes), len(sparsities)) < LEVELS_NEEDED:
        raise SaebenchError(
            f"The law L(n, k) needs at least {JOINT.needed} points with {LEVELS_NEEDED} sizes and {LEVELS_NEEDED} numbers "
            f"of active latents; there are {len(points)} with {len(sizes)} and {len(sparsities)}."
        )
    features, losses = np.log([[point.k, point.n] for point in points]), np.array([point.loss for point in points])
    found = compare(JOINT, JOINT_REDUCED, features, losses, bootstraps=study.bootstraps, seed=study.seed)
    return Law("joint", [point.name for point in points], features, losses, found)


def _compute_law(study: ScalingStudy) -> Law:
    """At the sparsity with the most runs: the frontier combines sizes, but not numbers of active latents."""
    counts: dict[float, int] = {}
    for point in study.points:
        counts[point.k] = counts.get(point.k, 0) + bool(point.tokens)
    k = max(counts, key=lambda each: (counts[each], each))
    points = [point for point in study.points if point.k == k]
    compute, losses, which = frontier(points)
    form = power_with_offset("C")
    if len(set(which)) < 2 or losses.size < form.needed:
        raise SaebenchError(
            f"The law L(C) needs at least {form.needed} points of 2 or more runs that no cheaper run reaches; there are "
            f"{losses.size} of {len(set(which))}."
        )
    found = compare(form, power("C"), np.log(compute)[:, None], losses, bootstraps=study.bootstraps, seed=study.seed)
    return Law("compute", [points[place].name for place in which], np.log(compute)[:, None], losses, found)


def _law(key: str, points: list[ScalingPoint], features: Array, study: ScalingStudy, variable: str) -> Law:
    losses = np.array([point.loss for point in points])
    form, reduced = power_with_offset(variable), power(variable)
    found = compare(form, reduced, features, losses, bootstraps=study.bootstraps, seed=study.seed)
    return Law(key, [point.name for point in points], features, losses, found)
