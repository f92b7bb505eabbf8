"""Several results side by side: values, differences and verdicts as tables of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saebench.comparison.frontier import By, Curve, Matched, curves, matched
from saebench.comparison.headline import find_metric, metric_paths
from saebench.comparison.samples import Z95, stated_error
from saebench.comparison.verdicts import Verdict, compare_metric
from saebench.results import Result

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparedResults:
    """Several results side by side, as numbers.

    Attributes:
        results: the first is the reference that verdicts are against.
        names: of the results, each different.
        metrics: those that tables of many autoencoders show, by ``evaluator.name``.
        by: what frontiers are compared by.
        at: where (in L0; in latents when compared by ``k``); empty for the places of the reference curve.
        differences: the conditions in which the results differ, in words; empty for results of one benchmark.
        only: whether ``metrics`` were asked for by name, so that no table and no frame has others.
    """

    results: tuple[Result, ...]
    names: tuple[str, ...]
    metrics: tuple[str, ...]
    by: By
    at: tuple[float, ...]
    differences: tuple[str, ...]
    only: bool = False

    def shown(self, results: Sequence[Result]) -> list[str]:
        """The metrics that the results have: all, or of those that were asked for by name."""
        return [path for path in metric_paths(results) if not self.only or path in self.metrics]

    def verdicts(self, index: int, paths: Sequence[str] | None = None) -> dict[str, Verdict]:
        """The verdicts on result ``index`` against the first, by metric; of all that are shown by default."""
        chosen = self.shown(self.results) if paths is None else paths
        found = {path: compare_metric(self.results[0], self.results[index], path, not self.differences) for path in chosen}
        return {path: verdict for path, verdict in found.items() if verdict is not None}

    def curves(self) -> list[Curve]:
        """The results as curves over L0 (over the number of latents when compared by ``k``)."""
        return curves(self.results, self.by)

    def matched(self) -> list[Matched]:
        """The metrics of the curves at matched L0."""
        found = self.curves()
        return [row for path in self.metrics for row in matched(found, path, self.by, self.at, not self.differences)]

    def frame(self) -> pandas.DataFrame:
        """One row for each metric of each autoencoder, with its difference from the reference and the verdict on it."""
        import pandas

        rows = []
        for index, (name, result) in enumerate(zip(self.names, self.results, strict=True)):
            verdicts = self.verdicts(index) if index else {}
            for path in self.shown([result]):
                rows.append(_row(name, result, path, verdicts.get(path)))
        return pandas.DataFrame(rows)

    def matched_frame(self) -> pandas.DataFrame:
        """One row for each metric of each curve at each matched place, with the verdict against the first curve of its
        stratum."""
        import pandas

        columns = ["metric", "group", "stratum", "at", "value", "standard_error", "interpolated", *_VERDICT_COLUMNS]
        rows = [
            [row.metric, row.curve.group, row.curve.stratum, row.at, row.value.value, row.value.error, row.interpolated,
             *_verdict_cells(row.verdict)]
            for row in self.matched()
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=columns)


_VERDICT_COLUMNS = ("difference", "difference_error", "difference_low", "difference_high", "paired_by", "verdict")


def _verdict_cells(verdict: Verdict | None) -> list[object]:
    if verdict is None:
        return [None] * len(_VERDICT_COLUMNS)
    low, high = verdict.interval or (None, None)
    return [verdict.difference, verdict.error, low, high, verdict.paired, verdict.words]


def _row(name: str, result: Result, path: str, verdict: Verdict | None) -> dict[str, object]:
    metric = find_metric(result, path)
    assert metric is not None
    error = stated_error(metric)
    interval = metric.interval
    if interval is None and metric.value is not None and error is not None:
        interval = (metric.value - Z95 * error, metric.value + Z95 * error)
    evaluator, _, short = path.partition(".")
    low, high = interval or (None, None)
    return {
        "sae": name,
        "architecture": result.sae.architecture,
        "n_latents": result.sae.n_latents,
        "evaluator": evaluator,
        "metric": short,
        "value": metric.value,
        "standard_error": error,
        "low": low,
        "high": high,
        "unit": metric.unit,
        "direction": metric.direction,
        "n": metric.n,
        "n_unit": metric.n_unit,
        **dict(zip(_VERDICT_COLUMNS, _verdict_cells(verdict), strict=True)),
    }
