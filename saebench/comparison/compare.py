"""Compare results: the object behind ``saebench compare`` and ``saebench.compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console, ConsoleOptions, RenderResult

from saebench.comparison.benchmark import require_one_benchmark
from saebench.comparison.frontier import By, Curve, Matched, curves, matched
from saebench.comparison.headline import choose, find_metric, metric_paths
from saebench.comparison.samples import Z95, stated_error
from saebench.comparison.verdicts import Verdict, judge
from saebench.errors import SaebenchError
from saebench.results import Result, read_result
from saebench.scorecard import Scorecard

if TYPE_CHECKING:
    import pandas

Comparable = str | Path | Result | Scorecard


@dataclass(frozen=True)
class Comparison:
    """Several results side by side. It prints itself in a terminal and in a notebook.

    Attributes:
        results: the first is the reference that verdicts are against.
        names: of the results, each different.
        metrics: those that tables of many autoencoders show, by ``evaluator.name``.
        by: what frontiers are compared by.
        at: where (in L0; in latents when compared by ``k``); empty where the results decide.
        differences: the conditions in which the results differ, in words; empty for results of one benchmark.
    """

    results: tuple[Result, ...]
    names: tuple[str, ...]
    metrics: tuple[str, ...]
    by: By
    at: tuple[float, ...]
    differences: tuple[str, ...]

    def verdicts(self, index: int, paths: Sequence[str] | None = None) -> dict[str, Verdict]:
        """What can be said of result ``index`` against the first, by metric; of all metrics by default."""
        chosen = metric_paths(self.results) if paths is None else paths
        found = {path: judge(self.results[0], self.results[index], path, not self.differences) for path in chosen}
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
            for path in metric_paths([result]):
                rows.append(_row(name, result, path, verdicts.get(path)))
        return pandas.DataFrame(rows)

    def matched_frame(self) -> pandas.DataFrame:
        """One row for each metric of each curve at each matched place, judged against the first curve of its stratum."""
        import pandas

        columns = ["metric", "group", "stratum", "at", "value", "standard_error", "interpolated", *_VERDICT_COLUMNS]
        rows = [
            [row.metric, row.curve.group, row.curve.stratum, row.at, row.value.value, row.value.error, row.interpolated,
             *_verdict_cells(row.verdict)]
            for row in self.matched()
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=columns)

    def markdown(self) -> str:
        """The tables as Markdown."""
        from saebench.comparison.render import render_markdown

        return render_markdown(self)

    def csv(self) -> str:
        """``frame()`` as comma-separated values; the conditions that differ, if any, stand in a column of every row."""
        return str(self.frame().assign(different_benchmarks="; ".join(self.differences)).to_csv(index=False))

    def page(self, path: str | Path) -> None:
        """Write a page for the browser: the tables with their verdicts, the frontiers, then everything side by side."""
        from saebench.comparison.figures import frontier_figures
        from saebench.comparison.render import page_tables, table_key
        from saebench.report.page import write_page

        write_page(self.results, path, frontier_figures(self), self.differences, page_tables(self), table_key(self))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from saebench.comparison.render import render_terminal

        yield from render_terminal(self, options.max_width)

    def __repr__(self) -> str:
        console = Console(width=140, no_color=True, highlight=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def compare(
    *results: Comparable | Sequence[Comparable],
    by: By = "arch",
    at: Sequence[float] = (),
    metrics: Sequence[str] = (),
    force: bool = False,
) -> Comparison:
    """Set results side by side; verdicts are against the first.

    Args:
        results: result files, ``Result`` or ``Scorecard`` objects, or lists of these.
        by: compare frontiers by architecture, by ``k`` or by the number of latents ``n``.
        at: the L0 (with ``by="k"``: numbers of latents) at which to compare; by default the reference curve's own.
        metrics: those to show, by ``evaluator.name`` or by a name that is unique.
        force: set results of different benchmarks side by side all the same. They are marked and not judged.

    Raises:
        SaebenchError: fewer than two results, an unreadable one, results of different benchmarks, an unknown metric.
    """
    given = [each for one in results for each in ([one] if isinstance(one, str | Path | Result | Scorecard) else one)]
    if len(given) < 2:
        raise SaebenchError("Comparing takes at least two results: name more result files.")
    if by not in get_args(By):
        raise SaebenchError(f"Results are compared by {', '.join(get_args(By))}, not by {by!r}.")
    found = [_result(each) for each in given]
    differences = require_one_benchmark(found, force)
    return Comparison(
        tuple(found), _names(found), tuple(choose(found, metrics)), by, tuple(at), tuple(differences)
    )  # fmt: skip


def _result(given: Comparable) -> Result:
    if isinstance(given, Scorecard):
        return given.result
    return given if isinstance(given, Result) else read_result(given)


def _names(results: Sequence[Result]) -> tuple[str, ...]:
    """Origins; those that several results have are numbered."""
    origins = [result.sae.origin for result in results]
    seen: dict[str, int] = {}
    names = []
    for origin in origins:
        seen[origin] = seen.get(origin, 0) + 1
        names.append(f"{origin} ({seen[origin]})" if origins.count(origin) > 1 else origin)
    return tuple(names)


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
