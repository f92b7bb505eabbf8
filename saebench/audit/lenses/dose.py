"""Dose-response: does a metric get worse as a known damage grows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saebench.audit.lenses.finding import RESAMPLES, Finding, Outcome, array, row_spearman, spearman
from saebench.audit.scores import Score, grouped


def dose_response(damaged: Sequence[Score], sees: Sequence[str], asked: Mapping[str, float]) -> Finding:
    """Rank correlation of a metric with the dose of each damage, 1 where it gets worse with every step.

    Args:
        damaged: scores at several doses of each damage, 0 included.
        sees: the damages that the metric is meant to see; the others are reported and do not count.
        asked: ``right``, ``inverted``, ``share_least``.

    Returns:
        The smallest correlation among those that count. Intervals are from values redrawn with their standard errors, as
        if errors were independent: they are too wide where all doses were evaluated on one text.
    """
    found = {kind: _response(its) for kind, its in grouped(damaged, lambda each: each.subject.damage).items()}
    counted = [found[kind] for kind in sees if kind in found]
    details = {"by_damage": found, "counted": [kind for kind in sees if kind in found]}
    if not counted:
        return Finding("dose", "not known", "No damage was run that this metric is declared to see.", details=details)
    worst = min(counted, key=lambda each: each["correlation"])
    right = [each["correlation"] >= asked["right"] - 1e-9 for each in counted]
    outcome: Outcome = "passed" if all(right) else "care"
    if worst["correlation"] <= asked["inverted"] or np.mean(right) < asked["share_least"]:
        outcome = "failed"
    missed = [kind for kind in details["counted"] if found[kind]["correlation"] < asked["right"] - 1e-9]
    words = f"Follows the dose of {sum(right)} of {len(right)} damages that it is meant to see"
    words += f"; not {', '.join(missed)}." if missed else "."
    return Finding("dose", outcome, words, worst["correlation"], worst["low"], worst["high"], details)


def _response(its: Sequence[Score]) -> dict[str, float]:
    doses, bad = array([each.subject.dose for each in its]), -array([each.good for each in its])
    errors = np.nan_to_num(array([each.error for each in its]))
    generator = np.random.default_rng(0)
    drawn = row_spearman(bad + errors * generator.standard_normal((RESAMPLES, len(bad))), doses)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"correlation": spearman(doses, bad), "low": float(low), "high": float(high)}


def best_at_oracle(damaged: Sequence[Score]) -> list[str]:
    """The damages of which some dose has a better value than the oracle, with that dose."""
    found = []
    for kind, its in grouped(damaged, lambda each: each.subject.damage).items():
        oracle = next((each.good for each in its if each.subject.dose == 0), None)
        best = max(its, key=lambda each: each.good)
        if oracle is not None and best.good > oracle:
            found.append(f"{kind} {best.subject.dose:g}")
    return found
