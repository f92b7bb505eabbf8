"""A metric as an estimate over groups of the data, so that arithmetic on metrics keeps their covariance.

Errors of two autoencoders on the same rows of text are correlated: the same rows are hard for both. Each estimate
therefore has an influence: what every row adds to its error (``saebench.results.statistics.ratio_influence``).
Influences add like the estimates, so the error of any smooth function of metrics follows by the delta method (van der Vaart,
Asymptotic Statistics, chapter 3), paired wherever the groups agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.comparison.ratios import influence as influence_of
from saebench.results import Metric, Result
from saebench.results.statistics import influence_error

Z95 = 1.959964


@dataclass(frozen=True)
class Sample:
    """An estimate.

    Attributes:
        value: the number.
        error: its standard error, where known.
        influence: ``[groups]`` float64, where known.
        groups: identifies the groups; influences with equal ``groups`` can be added element by element.
        unit: what a group is, in words.
    """

    value: float
    error: float | None
    influence: Tensor | None = None
    groups: tuple[Any, ...] = ()
    unit: str = ""

    def log(self) -> Sample:
        """The natural logarithm; the value must be positive."""
        return self._mapped(math.log(self.value), 1 / self.value)

    def exp(self) -> Sample:
        """The exponential."""
        return self._mapped(math.exp(self.value), math.exp(self.value))

    def _mapped(self, value: float, slope: float) -> Sample:
        error = None if self.error is None else abs(slope) * self.error
        influence = None if self.influence is None else slope * self.influence
        return Sample(value, error, influence, self.groups, self.unit)


def combine(weighted: Sequence[tuple[float, Sample]]) -> Sample:
    """The weighted sum of samples: paired where all share their groups, else with their errors taken as independent."""
    value = sum(weight * sample.value for weight, sample in weighted)
    used = [(weight, sample) for weight, sample in weighted if weight != 0] or list(weighted[:1])
    first = used[0][1]
    if first.influence is not None and all(each.influence is not None and each.groups == first.groups for _, each in used):
        influence = torch.stack([weight * each.influence for weight, each in used if each.influence is not None]).sum(dim=0)
        return Sample(value, influence_error(influence), influence, first.groups, first.unit)
    if any(sample.error is None for _, sample in used):
        return Sample(value, None)
    return Sample(value, math.hypot(*(weight * (sample.error or 0.0) for weight, sample in used)))


def sample(result: Result, path: str) -> Sample | None:
    """A result's metric with its influence where its details allow; None where it is absent or undefined."""
    evaluator_name, _, name = path.partition(".")
    evaluator = result.evaluators.get(evaluator_name)
    metric = evaluator.metrics.get(name) if evaluator is not None else None
    if evaluator is None or metric is None or metric.value is None:
        return None
    error = stated_error(metric)
    found = influence_of(result, evaluator, name, metric.value)
    return Sample(metric.value, error) if found is None else Sample(metric.value, error, *found)


def stated_error(metric: Metric) -> float | None:
    """The standard error, else that of a normal estimate with the stated 95 % interval."""
    if metric.standard_error is None and metric.interval is not None:
        return (metric.interval[1] - metric.interval[0]) / (2 * Z95)
    return metric.standard_error
