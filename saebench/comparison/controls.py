"""Trained autoencoders against their controls: paired differences of every headline metric, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from saebench.comparison.headline import L0, headline, metric_value, trained_control
from saebench.comparison.verdicts import Verdict, compare_metric
from saebench.errors import SaebenchError
from saebench.results import Result

if TYPE_CHECKING:
    import pandas

NEAR_L0 = 0.1
"""Trained controls are compared with autoencoders of the same width whose L0 differs by at most this share."""
LEVEL = 0.05
OUTCOMES = ("better", "not separated", "worse", "unknown")


@dataclass(frozen=True)
class AgainstControl:
    """One metric of an autoencoder against one control.

    Attributes:
        name: of the autoencoder; ``architecture``: of it; ``control``: of the control.
        verdict: the autoencoder's value against the control's.
        corrected: the p value after Holm's correction over the whole table; None where there is none.
    """

    name: str
    architecture: str
    control: str
    verdict: Verdict
    corrected: float | None = None

    @property
    def outcome(self) -> str:
        """``better`` or ``worse`` where the corrected p value is below 5 %, ``not separated``, or ``unknown``."""
        if self.corrected is None:
            return "unknown"
        if self.corrected >= LEVEL:
            return "not separated"
        return "better" if (self.verdict.difference < 0) == (self.verdict.direction == "lower") else "worse"


def against_controls(results: Sequence[Result], names: Sequence[str], metrics: Sequence[str] = ()) -> list[AgainstControl]:
    """Every trained autoencoder against each of its controls.

    Controls are those of its own result, and the results of trained controls (``saebench train --freeze``) of the same width
    and about the same L0. Differences are paired by row of text or by task where both results hold these.

    Args:
        results: of one benchmark; ``names``: of the autoencoders.
        metrics: by ``evaluator.name``; the headline by default.

    Raises:
        SaebenchError: there is no control in the results.
    """
    trained = [(name, each) for name, each in zip(names, results, strict=True) if not trained_control(each)]
    frozen = [each for each in results if trained_control(each)]
    found: list[AgainstControl] = []
    for name, result in trained:
        own = [(control, control_result(result, control)) for control in result.controls]
        for control, its in [*own, *((trained_control(each), each) for each in frozen if alike(each, result))]:
            for path in metrics or headline([result]):
                verdict = compare_metric(its, result, path)
                if verdict is not None:
                    found.append(AgainstControl(name, result.sae.architecture, control, verdict))
    if not found:
        raise SaebenchError("No result has controls: evaluate with --controls, or add results of `saebench train --freeze`.")
    corrected = holm([each.verdict.p for each in found])
    return [replace(each, corrected=p) for each, p in zip(found, corrected, strict=True)]


def control_result(result: Result, name: str) -> Result:
    """A control's metrics as a result of the same benchmark."""
    return result.model_copy(update={"evaluators": result.controls[name], "controls": {}})


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values after Holm's step-down correction for their number; None stays None.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    known = sorted((value, index) for index, value in enumerate(values) if value is not None)
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        found[index] = largest
    return found


def control_frame(found: Sequence[AgainstControl]) -> pandas.DataFrame:
    """One row for each comparison."""
    import pandas

    rows = []
    for each in found:
        low, high = each.verdict.interval or (None, None)
        rows.append(
            {
                "metric": each.verdict.metric, "control": each.control, "sae": each.name, "architecture": each.architecture,
                "value": each.verdict.value, "control_value": each.verdict.reference, "difference": each.verdict.difference,
                "standard_error": each.verdict.error, "low": low, "high": high, "paired_by": each.verdict.paired,
                "p": each.verdict.p, "p_holm": each.corrected, "outcome": each.outcome,
            }
        )  # fmt: skip
    return pandas.DataFrame(rows)


def summary_frame(found: Sequence[AgainstControl]) -> pandas.DataFrame:
    """One row for each metric and control: how many autoencoders are better, not separated and worse."""
    import pandas

    groups: dict[tuple[str, str], list[AgainstControl]] = {}
    for each in found:
        groups.setdefault((each.verdict.metric, each.control), []).append(each)
    rows = []
    for (metric, control), its in groups.items():
        known = [each.corrected for each in its if each.corrected is not None]
        rows.append(
            {
                "metric": metric, "control": control, "saes": len(its),
                "mean": sum(each.verdict.value for each in its) / len(its),
                "control_mean": sum(each.verdict.reference for each in its) / len(its),
                **{name: sum(each.outcome == name for each in its) for name in OUTCOMES},
                "largest_p_holm": max(known, default=None),
            }
        )  # fmt: skip
    return pandas.DataFrame(rows)


def alike(result: Result, other: Result) -> bool:
    """Whether two autoencoders have the same width, and the first an L0 within ``NEAR_L0`` of the other's."""
    l0, near = metric_value(result, L0) or 0.0, metric_value(other, L0) or 0.0
    return result.sae.n_latents == other.sae.n_latents and near > 0 and abs(l0 / near - 1) <= NEAR_L0
