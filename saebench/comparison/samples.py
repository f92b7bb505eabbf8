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
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from saebench.results import EvaluatorResult, Metric, Result
from saebench.results.statistics import influence_error, ratio_influence

Z95 = 1.959964


class Ratio(NamedTuple):
    """How a metric is computed from sums by row: a ratio of columns (``a - b`` is a difference of two).

    ``kind``: ``exact`` where the metric is the ratio, ``complement`` where it is 1 minus it, ``scaled`` where it is the
    ratio times a constant of the text and the model.
    """

    numerator: str
    denominator: str
    kind: str = "exact"


RATIOS: dict[str, Ratio] = {
    "reconstruction.normalised_mse": Ratio("squared_error", "variance"),
    "reconstruction.explained_variance": Ratio("squared_error", "variance", "complement"),
    "reconstruction.normalised_mse_unit_norm": Ratio("unit_error", "tokens", "scaled"),
    "reconstruction.per_token_normalised_mse": Ratio("relative_error", "tokens"),
    "reconstruction.mse": Ratio("squared_error", "tokens", "scaled"),
    "reconstruction.cosine_similarity": Ratio("cosine", "tokens"),
    "reconstruction.l2_ratio": Ratio("norm_ratio", "tokens"),
    "reconstruction.relative_reconstruction_bias": Ratio("reconstruction_squares", "dot"),
    "reconstruction.l0": Ratio("l0", "tokens"),
    "reconstruction.l1": Ratio("l1", "tokens"),
    "downstream.ce_clean": Ratio("ce_clean", "predictions"),
    "downstream.ce_spliced": Ratio("ce_spliced", "predictions"),
    "downstream.ce_zero_ablated": Ratio("ce_zero_ablated", "predictions"),
    "downstream.ce_mean_ablated": Ratio("ce_mean_ablated", "predictions"),
    "downstream.ce_difference": Ratio("ce_spliced - ce_clean", "predictions"),
    "downstream.loss_recovered": Ratio("ce_zero_ablated - ce_spliced", "ce_zero_ablated - ce_clean"),
    "downstream.loss_recovered_mean": Ratio("ce_mean_ablated - ce_spliced", "ce_mean_ablated - ce_clean"),
    "downstream.kl_divergence": Ratio("kl_divergence", "positions"),
    "downstream.top1_agreement": Ratio("top1_agreement", "positions"),
}
"""Metrics of the one pass, in terms of their evaluator's ``details.by_row``."""


class ByUnit(BaseModel):
    """How an evaluator declares that a metric is a (weighted) mean over named units: ``details.by_unit.METRIC``.

    Attributes:
        unit: what the units are, such as ``tasks``.
        keys: their names; units of the same name are the same piece of data in every result of a benchmark.
        values: ``[keys]``, the metric of each; ``weights`` where the mean is weighted.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    unit: str
    keys: list[str]
    values: list[float]
    weights: list[float] | None = None


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
    for found in (_by_row(result, evaluator, path, metric.value), _by_unit(evaluator, name, metric.value)):
        if found is not None:
            return Sample(metric.value, error, *found)
    return Sample(metric.value, error)


def stated_error(metric: Metric) -> float | None:
    """The standard error, else that of a normal estimate with the stated 95 % interval."""
    if metric.standard_error is None and metric.interval is not None:
        return (metric.interval[1] - metric.interval[0]) / (2 * Z95)
    return metric.standard_error


def row_ratio(evaluator: EvaluatorResult, ratio: Ratio) -> tuple[Tensor, Tensor] | None:
    """``(numerator, denominator)`` of a metric by row (``[groups]`` float64 each), where the details hold them."""
    sums = evaluator.details.get("by_row")
    if not isinstance(sums, dict):
        return None
    numerator, denominator = (_column(sums, words) for words in (ratio.numerator, ratio.denominator))
    if numerator is None or denominator is None or numerator.shape != denominator.shape or float(denominator.sum()) == 0:
        return None
    return numerator, denominator


def _by_row(
    result: Result, evaluator: EvaluatorResult, path: str, value: float
) -> tuple[Tensor, tuple[Any, ...], str] | None:
    ratio = RATIOS.get(path)
    sums = row_ratio(evaluator, ratio) if ratio is not None else None
    if ratio is None or sums is None:
        return None
    influence = ratio_influence(*sums)
    if ratio.kind == "complement":
        influence = -influence
    if ratio.kind == "scaled":
        plain = float(sums[0].sum() / sums[1].sum())
        influence = influence * (value / plain if plain else 1.0)
    grouping = (result.corpus.sha256, result.sae.hook_out, evaluator.details["by_row"].get("rows_per_group"))
    return influence, ("rows", *grouping, influence.numel()), "rows of text"


def _by_unit(evaluator: EvaluatorResult, name: str, value: float) -> tuple[Tensor, tuple[Any, ...], str] | None:
    given = evaluator.details.get("by_unit")
    try:
        units = ByUnit.model_validate(given.get(name) if isinstance(given, dict) else None)
    except ValidationError:
        return None
    weights = torch.tensor(units.weights or [1.0] * len(units.keys), dtype=torch.float64)
    values = torch.tensor(units.values, dtype=torch.float64)
    if not len(units.keys) == len(weights) == len(values) > 1 or float(weights.sum()) == 0:
        return None
    mean = float((weights * values).sum() / weights.sum())
    if abs(mean - value) > 1e-4 * max(abs(value), 1e-6):
        return None  # the metric is not the mean of these
    return ratio_influence(weights * values, weights), (units.unit, evaluator.name, *units.keys), units.unit


def _column(sums: dict[str, Any], words: str) -> Tensor | None:
    """A column of sums, or the difference ``a - b`` of two; None where one is absent or is not all numbers."""
    total: Tensor | None = None
    for index, name in enumerate(words.split(" - ")):
        values = sums.get(name)
        if not isinstance(values, list) or not values:
            return None
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            return None
        column = torch.tensor(values, dtype=torch.float64)
        if total is not None and total.shape != column.shape:
            return None
        total = column if total is None else total - column if index else column
    return total
