"""From lenses to verdicts, by the rule in ``thresholds.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saebench.audit.lenses import Finding, confounds, dose_response, floors, noise, resolution, trajectory, validity
from saebench.audit.lenses.dose import best_at_oracle
from saebench.audit.lenses.validity import largest_cell
from saebench.audit.scores import Score, by_metric, of_role
from saebench.audit.thresholds import Thresholds
from saebench.results.verdicts import Verdict

ORDER = ("noise", "dose", "validity", "floors", "trajectory", "confounds")
"""Of lenses that can decide; fatal failures come first."""


@dataclass(frozen=True)
class Audited:
    """A metric with what every lens found.

    Attributes:
        metric: ``evaluator.name``; ``findings``: by lens; ``verdict``: of the rule.
        better_than_oracle: damaged versions with a better value than the oracle's.
    """

    metric: str
    findings: Mapping[str, Finding]
    verdict: Verdict
    better_than_oracle: tuple[str, ...] = ()


def audit_scores(scores: Sequence[Score], thresholds: Thresholds, tokens: int = 0) -> list[Audited]:
    """Every metric of a table of scores through every lens."""
    return [_audited(metric, its, thresholds, tokens) for metric, its in by_metric(scores).items()]


def _audited(metric: str, scores: Sequence[Score], thresholds: Thresholds, tokens: int) -> Audited:
    asked, trained = thresholds.of, of_role(scores, "trained")
    damaged, repeats, controls = of_role(scores, "damaged"), of_role(scores, "repeat"), of_role(scores, "control")
    found = [
        noise(repeats, asked["noise"]),
        dose_response(damaged, thresholds.meant_to_see(metric), asked["dose"]),
        validity(trained, asked["validity"]),
        floors(_last(trained), controls, asked["floors"]),
        trajectory(trained, asked["trajectory"]),
        confounds(_last(trained), largest_cell(trained), asked["confounds"]),
        resolution(repeats, tokens),
    ]
    findings = {each.lens: each for each in found}
    return Audited(metric, findings, decide(metric, findings, thresholds), tuple(best_at_oracle(damaged)))


def _last(trained: Sequence[Score]) -> list[Score]:
    """Scores of the last checkpoint of each run."""
    last: dict[tuple[str, int], Score] = {}
    for each in trained:
        run = (each.subject.cell, each.subject.seed)
        if run not in last or each.subject.tokens >= last[run].subject.tokens:
            last[run] = each
    return list(last.values())


def decide(metric: str, findings: Mapping[str, Finding], thresholds: Thresholds) -> Verdict:
    """The verdict on a metric: a fatal failure, then any other shortcoming, then a lens that is not known."""
    deciding = [findings[lens] for lens in ORDER if lens in findings]
    for each in deciding:
        if each.outcome == "failed" and each.lens in thresholds.fatal:
            return Verdict(metric, "not evidence", each.lens, each.sentence)
    if all(findings[lens].outcome == "not known" for lens in thresholds.required if lens in findings):
        return Verdict(metric, "not known", "", "None of the deciding lenses was run.")
    for outcome in ("failed", "care"):
        for each in deciding:
            if each.outcome == outcome:
                return Verdict(metric, "use with care", each.lens, each.sentence)
    for lens in thresholds.required:
        if lens not in findings or findings[lens].outcome == "not known":
            reason = findings[lens].sentence if lens in findings else "It was not run."
            return Verdict(metric, "use with care", lens, f"The lens {lens} is not known: {reason}")
    return Verdict(metric, "sound", "", "Passed every required lens.")
