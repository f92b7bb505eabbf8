"""Is the difference between two autoencoders larger than its error? One verdict for each metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from saebench.comparison.headline import find_metric
from saebench.comparison.samples import Z95, Sample, combine, sample
from saebench.results import Result

Outcome = Literal["better", "worse", "within", "equal", "unknown"]
SIGNS = {"better": "+", "worse": "-", "within": "=", "equal": "=", "unknown": "?"}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one metric of an autoencoder against a reference.

    Attributes:
        metric: ``evaluator.name``.
        reference, value: the two numbers.
        difference: ``value - reference``.
        error: standard error of the difference; ``interval`` its 95 % interval.
        paired: the groups by which the difference is paired, such as ``rows of text``; empty where errors are taken as
            independent, which overstates the error of a difference on the same text.
        outcome: ``within`` where the interval contains 0.
        reason: why the outcome is unknown.
        p: two-sided, of no difference; None where the error is unknown.
    """

    metric: str
    unit: str
    direction: str
    reference: float
    value: float
    difference: float
    error: float | None
    interval: tuple[float, float] | None
    paired: str
    outcome: Outcome
    reason: str = ""
    p: float | None = None

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        if self.outcome == "unknown":
            return f"no verdict: {self.reason}"
        if self.outcome == "equal":
            return "equal"
        if self.outcome == "within":
            return "within its interval"
        return self.outcome


def compare_metric(reference: Result, other: Result, path: str, one_benchmark: bool = True) -> Verdict | None:
    """The verdict on a metric; None where either result lacks it, it is undefined, or it has no direction."""
    metric, before, after = find_metric(other, path), sample(reference, path), sample(other, path)
    if metric is None or metric.direction == "none" or before is None or after is None:
        return None
    return compare_samples(before, after, path, metric.unit, metric.direction, one_benchmark)


def compare_samples(
    before: Sample, after: Sample, path: str, unit: str, direction: str, one_benchmark: bool = True
) -> Verdict:
    """The verdict on two estimates of one metric."""
    if not one_benchmark:  # rows of different texts must not be paired, even where their counts agree
        before, after = Sample(before.value, before.error), Sample(after.value, after.error)
    change = combine([(1.0, after), (-1.0, before)])
    interval = interval_of(change)
    outcome, reason = _outcome(change, interval, direction)
    if not one_benchmark:
        outcome, reason = "unknown", "different benchmarks"
    paired = change.unit if change.influence is not None else ""
    return Verdict(path, unit, direction, before.value, after.value, change.value, change.error, interval, paired, outcome,
                   reason, p_of(change))  # fmt: skip


def _outcome(change: Sample, interval: tuple[float, float] | None, direction: str) -> tuple[Outcome, str]:
    if interval is None:
        return ("equal", "") if change.value == 0 else ("unknown", "the interval is unknown")
    if change.value == 0 and change.error == 0:
        return "equal", ""
    if interval[0] <= 0 <= interval[1]:
        return "within", ""
    return ("better" if (change.value < 0) == (direction == "lower") else "worse"), ""


def interval_of(change: Sample) -> tuple[float, float] | None:
    """The 95 % interval of an estimate; None where its error is unknown or not finite."""
    if change.error is None:
        return None
    half = _quantile(change) * change.error
    return (change.value - half, change.value + half) if math.isfinite(change.value) and math.isfinite(half) else None


def p_of(change: Sample) -> float | None:
    """The two-sided p value of an estimate against 0; None where its error is unknown."""
    if change.error is None:
        return None
    if change.error == 0:
        return 0.0 if change.value else 1.0
    from scipy.stats import norm, t

    size = abs(change.value) / change.error
    if change.influence is None:
        return float(2 * norm.sf(size))
    return float(2 * t.sf(size, change.influence.numel() - 1))


def _quantile(change: Sample) -> float:
    """The quantile of Student's t with one degree of freedom less than groups; of the normal where groups are unknown."""
    if change.influence is None:
        return Z95
    from scipy.stats import t

    return float(t.ppf(0.975, change.influence.numel() - 1))
