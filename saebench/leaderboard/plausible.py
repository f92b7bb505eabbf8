"""Plausibility of a result's numbers: their ranges, their agreement with each other and with the sums by row."""

from __future__ import annotations

import math

from saebench.comparison.samples import RATIOS, row_ratio, stated_error
from saebench.results import EvaluatorResult, Metric, Result
from saebench.results.statistics import ratio_estimate

SHARES = ("top1_agreement", "f1", "precision", "recall", "accuracy", "auc", "sparsity")
AT_MOST_ONE = ("explained_variance",)
AT_LEAST_ZERO = ("l0", "mse", "ce_clean", "ce_spliced", "ce_zero_ablated", "ce_mean_ablated", "normalised_mse",
                 "normalised_mse_unit_norm", "per_token_normalised_mse", "kl_divergence", "probe_loss")  # fmt: skip
ROUNDING = 1e-5
"""Relative: sums by row have seven digits."""
SLACK = 1e-6
SUMS = (
    ("reconstruction", "explained_variance", (("normalised_mse", -1.0),), 1.0),
    ("reconstruction", "fraction_seen", (("dead_latents", -1.0),), 1.0),
    ("downstream", "ce_difference", (("ce_spliced", 1.0), ("ce_clean", -1.0)), 0.0),
)
"""``(evaluator, metric, what it is the sum of, constant)``."""


def implausible(result: Result) -> list[str]:
    """Implausible numbers of a result (and of its controls), as sentences without a full stop."""
    problems = _of_evaluators(result, result.evaluators, "")
    for control, evaluators in result.controls.items():
        problems += _of_evaluators(result, evaluators, f"control {control}: ")
    return problems


def _of_evaluators(result: Result, evaluators: dict[str, EvaluatorResult], where: str) -> list[str]:
    problems = []
    for evaluator, found in evaluators.items():
        for name, metric in found.metrics.items():
            said = [*_range(result, metric), *_interval(metric), *_rows(found, f"{evaluator}.{name}", metric)]
            problems += [f"{where}{evaluator}.{name} {problem}" for problem in said]
    return problems + [f"{where}{problem}" for problem in _disagreements(evaluators)]


def _range(result: Result, metric: Metric) -> list[str]:
    low, high = -math.inf, math.inf
    if metric.unit.startswith("share") or metric.name in SHARES:
        low, high = 0.0, 1.0
    elif metric.unit == "cosine" or metric.name == "cosine_similarity":
        low, high = -1.0, 1.0
    elif metric.name in AT_MOST_ONE:
        high = 1.0
    elif metric.name in AT_LEAST_ZERO:
        low = 0.0
    if metric.name == "l0":
        high = float(result.sae.n_latents)
    problems = []
    if metric.value is not None and not low - SLACK <= metric.value <= high + SLACK:
        problems.append(f"is {metric.value:g}, outside its range of {low:g} to {high:g}")
    if metric.n_unit == "tokens" and metric.n > result.corpus.tokens:
        problems.append(f"rests on {metric.n:,} tokens of a text of {result.corpus.tokens:,}")
    return problems


def _interval(metric: Metric) -> list[str]:
    if metric.value is None or metric.interval is None:
        return []
    low, high = metric.interval
    return [] if low - SLACK <= metric.value <= high + SLACK else ["is outside its own interval"]


def _rows(evaluator: EvaluatorResult, path: str, metric: Metric) -> list[str]:
    """A metric against the sums by row in the same file."""
    ratio = RATIOS.get(path)
    sums = row_ratio(evaluator, ratio) if ratio is not None else None
    if ratio is None or sums is None or metric.value is None or ratio.kind == "scaled":
        return []
    found = ratio_estimate(*sums)
    assert found.value is not None
    value = 1 - found.value if ratio.kind == "complement" else found.value
    scale = max(abs(float(sums[0].abs().sum() / sums[1].sum())), abs(metric.value), _parts(evaluator, ratio.numerator, path))
    if abs(value - metric.value) > ROUNDING * scale:
        return [f"is {metric.value:g}, but its sums by row give {value:g}"]
    error = stated_error(metric)
    if (
        error is not None
        and found.standard_error is not None
        and abs(error - found.standard_error) > (1e-2 * found.standard_error + ROUNDING * scale)
    ):
        return [f"has a standard error of {error:g}, but its sums by row give {found.standard_error:g}"]
    return []


def _parts(evaluator: EvaluatorResult, numerator: str, path: str) -> float:
    """The magnitude of the terms of a numerator: their rounding determines that of the ratio."""
    names = numerator.split(" - ")
    if len(names) == 1:
        return 0.0
    return max(abs(metric.value or 0.0) for name in names if (metric := evaluator.metrics.get(name)) is not None)


def _disagreements(evaluators: dict[str, EvaluatorResult]) -> list[str]:
    problems = []
    for evaluator, name, parts, constant in SUMS:
        metrics = evaluators[evaluator].metrics if evaluator in evaluators else {}
        values = {each: metrics[each].value for each in (name, *(part for part, _ in parts)) if each in metrics}
        if len(values) < 1 + len(parts) or None in values.values():
            continue
        expected = constant + sum(weight * (values[part] or 0.0) for part, weight in parts)
        scale = max(1.0, *(abs(value or 0.0) for value in values.values()))
        if abs((values[name] or 0.0) - expected) > ROUNDING * scale:
            problems.append(
                f"{evaluator}.{name} is {values[name]:g}, but {' and '.join(p for p, _ in parts)} give {expected:g}"
            )
    return problems
