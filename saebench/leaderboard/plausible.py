"""Plausibility of a result's numbers: every score from its samples, ranges, and agreement with what was evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from saebench.errors import plain
from saebench.evaluators.base import Evaluator, Measured, installed_evaluators
from saebench.results import EvaluatorResult, Metric, Result
from saebench.results.statistics import read_columns

RELATIVE, ABSOLUTE = 1e-5, 2e-6
"""Tolerances of recomputed numbers: samples have seven digits. The absolute one is for units of order 1."""
RELATIVE_ERROR = 1e-3
"""Tolerance of standard errors and intervals."""
OF_ORDER_ONE = ("1", "nats", "cosine")
SLACK = 1e-6
AT_MOST_ONE = ("explained_variance", "ce_loss_score", "kl_div_score")
"""Metrics without a lower bound."""
NON_NEGATIVE = {"reconstruction", "downstream", "shrinkage", "progressive", "ablation", "core"}
"""Evaluators whose sums by row cannot be negative, but for ``SIGNED``."""
SIGNED = ("dot", "cosine", "kl_divergence", "kl_ablated")
"""Sums of signed terms, and a divergence that rounding can make slightly negative."""


def implausible(result: Result) -> list[str]:
    """Implausible numbers of a result and of its controls, as sentences without a full stop."""
    evaluators = installed_evaluators()
    problems = list(_sae(result))
    problems += _of_evaluators(result, result.evaluators, evaluators, "")
    for control, found in result.controls.items():
        problems += _of_evaluators(_like_control(result, control), found, evaluators, f"control {plain(control)}: ")
        problems += _copied(result, control, evaluators)
    return problems


def _like_control(result: Result, control: str) -> Result:
    """The result as if it were of a control: a PCA has only as many latents as the autoencoder has active ones."""
    cosine = result.controls[control].get("reconstruction")
    counted = cosine.metrics.get("encoder_decoder_cosine") if control == "pca" and cosine is not None else None
    if counted is None:
        return result
    latents = min(max(counted.n, 1), result.sae.n_latents)
    return result.model_copy(update={"sae": result.sae.model_copy(update={"n_latents": latents})})


def _sae(result: Result) -> Iterator[str]:
    """What the result says of the autoencoder."""
    sae = result.sae
    for name, text, longest in (
        ("architecture", sae.architecture, 100),
        ("format", sae.format, 100),
        ("origin", sae.origin, 500),
    ):
        if not text.strip() or len(text) > longest or plain(text) != text:
            yield f"sae.{name} is empty, longer than {longest} characters, or holds control characters"


def _of_evaluators(
    result: Result, found: Mapping[str, EvaluatorResult], evaluators: Mapping[str, type[Evaluator]], where: str
) -> list[str]:
    problems = []
    for name, each in found.items():
        if name not in evaluators:
            problems.append(
                f"{where}the evaluator {plain(name)[:60]} is not installed here, so its scores cannot be checked"
            )
            continue
        problems += [f"{where}{problem}" for problem in _of_evaluator(result, each, evaluators[name])]
    return problems


def _of_evaluator(result: Result, found: EvaluatorResult, evaluator: type[Evaluator]) -> Iterator[str]:
    try:
        expected = {metric.name: metric for metric in evaluator.recomputed(found, Measured.of(result))}
    except Exception as error:  # details from a stranger: whatever they break is one sentence
        yield f"{evaluator.name}: its details do not give its scores ({_words(error)})"
        return
    for name in sorted({*found.metrics, *expected}):
        if name not in found.metrics:
            yield f"{evaluator.name}.{name} is missing"
        elif name not in expected:
            yield f"{evaluator.name}.{plain(name)[:60]} does not follow from the result's details"
        else:
            stated = found.metrics[name]
            for problem in (*_differences(stated, expected[name]), *_range(result, stated)):
                yield f"{evaluator.name}.{name} {problem}"
    yield from _columns(result, found, evaluator)


def _words(error: Exception) -> str:
    missing = isinstance(error, KeyError) and bool(error.args)
    return plain(f"{error.args[0]} is missing" if missing else str(error) or type(error).__name__)[:200]


def _differences(stated: Metric, expected: Metric) -> Iterator[str]:
    """A stated metric against the one computed from the samples."""
    fields = ("version", "unit", "direction", "n", "n_unit")
    wrong = [name for name in fields if getattr(stated, name) != getattr(expected, name)]
    if wrong:
        yield f"has another {wrong[0]} than its evaluator gives it"
        return
    if (stated.value is None) != (expected.value is None):
        yield (
            "is undefined, but its samples give a value"
            if stated.value is None
            else "has a value, but its samples give none"
        )
        return
    if stated.value is None or expected.value is None:
        return
    if not _close(stated.value, expected.value, RELATIVE, stated.unit):
        yield f"is {stated.value:g}, but its samples give {expected.value:g}"
        return
    for words, ours, theirs in (
        ("a standard error", stated.standard_error, expected.standard_error),
        ("an interval from", (stated.interval or (None, None))[0], (expected.interval or (None, None))[0]),
        ("an interval up to", (stated.interval or (None, None))[1], (expected.interval or (None, None))[1]),
    ):
        if (ours is None) != (theirs is None):
            yield f"has {words} {_number(ours)}, but its samples give {_number(theirs)}"
        elif ours is not None and theirs is not None and not _close(ours, theirs, RELATIVE_ERROR, stated.unit):
            yield f"has {words} {ours:g}, but its samples give {theirs:g}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _close(value: float, expected: float, relative: float, unit: str) -> bool:
    absolute = ABSOLUTE if unit in OF_ORDER_ONE else 0.0
    return abs(value - expected) <= relative * abs(expected) + absolute


def _range(result: Result, metric: Metric) -> Iterator[str]:
    low, high = _limits(result, metric)
    if metric.value is not None and not low - SLACK <= metric.value <= high + SLACK:
        yield f"is {metric.value:g}, outside its range of {low:g} to {high:g}"
    if metric.n_unit == "tokens" and metric.n > result.corpus.tokens:
        yield f"rests on {metric.n:,} tokens of a text of {result.corpus.tokens:,}"


def _limits(result: Result, metric: Metric) -> tuple[float, float]:
    name, latents = metric.name, float(result.sae.n_latents)
    share = ("accuracy", "auc", "precision", "recall", "f1", "agreement", "sparsity", "win_rate", "absorption")
    if name == "l0":
        k = result.sae.activation.get("k")
        most = latents if result.sae.activation.get("name") != "topk" or type(k) is not int else min(float(k), latents)
        return 0.0, most
    if name.endswith("_excess"):
        return -1.0, 1.0
    if metric.unit.startswith("share") or any(word in name for word in share):
        return 0.0, 1.0
    if metric.unit == "cosine" or name == "cosine_similarity":
        return -1.0, 1.0
    if name in AT_MOST_ONE:
        return -math.inf, 1.0
    if name.startswith("tpp_"):
        return -2.0, 2.0
    signed = ("difference", "recovered", "explained", "cost", "bias", "scr_")
    return (-math.inf if any(word in name for word in signed) else 0.0), math.inf


def _columns(result: Result, found: EvaluatorResult, evaluator: type[Evaluator]) -> Iterator[str]:
    """Sums by row against the text: how many rows and tokens there are, and what no row can exceed."""
    by_row = found.details.get("by_row")
    if evaluator.name not in NON_NEGATIVE or not isinstance(by_row, dict):
        return
    for record in by_row.values() if evaluator.name == "ablation" else [by_row]:
        for name, values in record.items() if isinstance(record, dict) else ():
            if (
                isinstance(values, list)
                and name not in SIGNED
                and any(value < 0 for value in values if type(value) is float)
            ):
                yield f"{evaluator.name}: the sum by row {plain(name)[:60]} is negative"
    if evaluator.name in ("reconstruction", "shrinkage", "progressive", "core"):
        yield from _tokens(result, evaluator.name, by_row)
    if evaluator.name in ("reconstruction", "core"):
        tokens, l0, cosine = read_columns(by_row, ["tokens", "l0", "cosine"]).unbind(dim=1)
        if _exceeds(l0, tokens * result.sae.n_latents) or _exceeds(cosine.abs(), tokens):
            yield f"{evaluator.name}: a row's sum of L0 or of cosines is larger than its tokens allow"
    if evaluator.name == "downstream":
        positions, agreement = read_columns(by_row, ["positions", "top1_agreement"]).unbind(dim=1)
        if _exceeds(agreement, positions):
            yield "downstream: a row agrees at more positions than it has"


def _tokens(result: Result, name: str, by_row: Mapping[str, Any]) -> Iterator[str]:
    (tokens,) = read_columns(by_row, ["tokens"]).unbind(dim=1)
    size = by_row.get("rows_per_group", 1)
    if tokens.numel() != -(-result.corpus.rows // size):
        yield f"{name}: there are sums of {tokens.numel():,} rows, but the text has {result.corpus.rows:,}"
    elif int(tokens.sum()) != result.corpus.tokens_counted or _exceeds(tokens, tokens * 0 + size * result.corpus.context):
        yield f"{name}: the rows' tokens do not add up to the {result.corpus.tokens_counted:,} that counted"


def _exceeds(values: Tensor, most: Tensor) -> bool:
    return bool((values > most * (1 + RELATIVE) + SLACK).any())


def _copied(result: Result, control: str, evaluators: Mapping[str, type[Evaluator]]) -> Iterator[str]:
    """A control that has the scores of the autoencoder itself.

    Figures without a direction may be of the language model alone, such as how many letters it knows.
    """
    for name, found in result.controls[control].items():
        own = result.evaluators.get(name)
        alone = name in evaluators and evaluators[name].of_weights_alone and control == "reinitialised"
        scored = own is not None and any(
            each.value is not None and each.direction != "none" for each in own.metrics.values()
        )
        if own is None or alone or not scored:
            continue
        if {key: each.value for key, each in own.metrics.items()} == {
            key: each.value for key, each in found.metrics.items()
        }:
            yield f"the control {plain(control)!r} has the very scores of the autoencoder for {name}"
