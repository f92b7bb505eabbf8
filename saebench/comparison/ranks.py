"""Ranks with ties: an autoencoder is ranked behind those that are better beyond the error of a paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from saebench.comparison.controls import LEVEL, holm
from saebench.comparison.headline import find_metric
from saebench.comparison.samples import sample
from saebench.comparison.verdicts import compare_samples
from saebench.results import Result

MOST_RANKED = 200
"""Results beyond this many are not ranked: every pair is tested."""


def ranks(results: Sequence[Result], path: str) -> list[int | None]:
    """The rank of each result of one benchmark in a metric: 1 and the number of results that are significantly better.

    Every pair is tested, paired by row or task where both hold these; p values are corrected for the number of pairs by
    Holm's method, at 5 %. Results between which no test decides share a rank. None without value, error or direction,
    and where there are more than ``MOST_RANKED`` results.
    """
    metrics = [find_metric(result, path) for result in results]
    found = [sample(result, path) for result in results]
    ranked = [
        index
        for index, (metric, its) in enumerate(zip(metrics, found, strict=True))
        if metric is not None and metric.direction != "none" and its is not None and its.error is not None
    ]
    places: list[int | None] = [None] * len(results)
    if len(results) > MOST_RANKED:
        return places
    pairs = list(combinations(ranked, 2))
    tests = []
    for first, second in pairs:
        metric, before, after = metrics[first], found[first], found[second]
        assert metric is not None and before is not None and after is not None
        tests.append(compare_samples(before, after, path, metric.unit, metric.direction))
    behind = dict.fromkeys(ranked, 0)
    for (first, second), test, p in zip(pairs, tests, holm([each.p for each in tests]), strict=True):
        if p is not None and p < LEVEL:
            second_better = (test.difference < 0) == (test.direction == "lower")
            behind[first if second_better else second] += 1
    for index, better in behind.items():
        places[index] = 1 + better
    return places
