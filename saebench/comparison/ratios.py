"""Metrics as means over pieces of the data: what each row of text, or each probing task, adds to a metric's error."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from saebench.results import EvaluatorResult, Result
from saebench.results.ratios import RATIOS, Ratio
from saebench.results.statistics import ratio_influence

LARGEST = 1e150
"""Numbers from here on, which nothing measures, have squares that are not finite."""


class Influence(NamedTuple):
    """What each group of the data adds to a metric's error.

    Attributes:
        values: ``[groups]`` float64.
        groups: identifies the groups; influences with equal ``groups`` can be added element by element.
        unit: what a group is, in words.
    """

    values: Tensor
    groups: tuple[Any, ...]
    unit: str


BY_TASK = {
    "probe_loss.probe_loss": ("best_latent", "train_loss"),
    "probe_loss.probe_loss_held_out": ("best_latent", "held_out", "loss"),
    "probe_loss.probe_accuracy": ("best_latent", "held_out", "accuracy"),
    "probe_loss.probe_auc": ("best_latent", "held_out", "auc"),
}
"""Means over probing tasks: where ``details.tasks`` holds each task's number."""


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


def row_ratio(evaluator: EvaluatorResult, ratio: Ratio) -> tuple[Tensor, Tensor] | None:
    """``(numerator, denominator)`` of a metric by row (``[groups]`` float64 each), where the details hold them."""
    sums = _table(evaluator, ratio)
    if sums is None:
        return None
    numerator, denominator = (_column(sums, words) for words in (ratio.numerator, ratio.denominator))
    if numerator is None or denominator is None or numerator.shape != denominator.shape or float(denominator.sum()) == 0:
        return None
    return numerator, denominator


def influence(result: Result, evaluator: EvaluatorResult, name: str, value: float) -> Influence | None:
    """The influence of a metric whose value is ``value``, where the details of its evaluator allow."""
    path = f"{evaluator.name}.{name}"
    return _by_row(result, evaluator, path, value) or _by_task(evaluator, path, value) or _by_unit(evaluator, name, value)


def _by_row(result: Result, evaluator: EvaluatorResult, path: str, value: float) -> Influence | None:
    ratio = RATIOS.get(path)
    sums = row_ratio(evaluator, ratio) if ratio is not None else None
    if ratio is None or sums is None:
        return None
    found = ratio_influence(*sums)
    if ratio.minus:
        other = row_ratio(evaluator, ratio._replace(table=ratio.minus))
        if other is None or other[0].shape != found.shape:
            return None
        found = found - ratio_influence(*other)
    if ratio.kind == "complement":
        found = -found
    if ratio.kind == "scaled":
        plain = float(sums[0].sum() / sums[1].sum())
        found = found * (value / plain if plain else 1.0)
    table = _table(evaluator, ratio) or {}
    rows = tuple(map(str, table.get("row") or ()))  # where only some rows were sampled, which ones
    grouping = (result.corpus.sha256, result.sae.hook_out, table.get("rows_per_group"), rows)
    return Influence(found, ("rows", *grouping, found.numel()), "rows of text")


def _by_task(evaluator: EvaluatorResult, path: str, value: float) -> Influence | None:
    """Probing tasks as a sample of tasks, so that two autoencoders are compared task by task."""
    tasks = evaluator.details.get("tasks")
    if path not in BY_TASK or not isinstance(tasks, dict) or len(tasks) < 2:
        return None
    values: list[float] = []
    for found in tasks.values():
        for key in BY_TASK[path]:
            found = found.get(key) if isinstance(found, dict) else None
        if not _is_number(found):
            return None
        values.append(float(found))
    return _mean_influence(values, None, (evaluator.name, *tasks), "tasks", value)


def _by_unit(evaluator: EvaluatorResult, name: str, value: float) -> Influence | None:
    given = evaluator.details.get("by_unit")
    try:
        units = ByUnit.model_validate(given.get(name) if isinstance(given, dict) else None)
    except ValidationError:
        return None
    if len(units.keys) != len(units.values):
        return None
    return _mean_influence(units.values, units.weights, (units.unit, evaluator.name, *units.keys), units.unit, value)


def _mean_influence(
    values: list[float], weights: list[float] | None, groups: tuple[Any, ...], unit: str, value: float
) -> Influence | None:
    """Of a weighted mean over units; None where the metric is not their mean."""
    shares = torch.tensor(weights or [1.0] * len(values), dtype=torch.float64)
    numbers = torch.tensor(values, dtype=torch.float64)
    if not len(numbers) == len(shares) > 1 or float(shares.sum()) == 0:
        return None
    if abs(float((shares * numbers).sum() / shares.sum()) - value) > 1e-4 * max(abs(value), 1e-6):
        return None
    return Influence(ratio_influence(shares * numbers, shares), groups, unit)


def _table(evaluator: EvaluatorResult, ratio: Ratio) -> dict[str, Any] | None:
    """The part of the details that holds a metric's sums."""
    found: Any = evaluator.details
    for key in ratio.table.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _is_number(value: Any) -> bool:
    """Whether a value of a result file is a number that sums can be taken of."""
    return type(value) in (int, float) and abs(value) < LARGEST


def _column(sums: dict[str, Any], words: str) -> Tensor | None:
    """A column of sums, or the difference ``a - b`` of two; None where one is absent or is not all numbers."""
    total: Tensor | None = None
    for index, name in enumerate(words.split(" - ")):
        values = sums.get(name)
        if not isinstance(values, list) or not values:
            return None
        if not all(_is_number(value) for value in values):
            return None
        column = torch.tensor(values, dtype=torch.float64)
        if total is not None and total.shape != column.shape:
            return None
        total = column if total is None else total - column if index else column
    return total
