"""Compare results: the object behind ``saebench compare`` and ``saebench.compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console, ConsoleOptions, RenderResult

from saebench.comparison.benchmark import require_one_benchmark
from saebench.comparison.compared import ComparedResults
from saebench.comparison.figures import frontier_figures
from saebench.comparison.frontier import By
from saebench.comparison.headline import choose
from saebench.comparison.render import page_tables, render_markdown, render_terminal, table_key
from saebench.errors import SaebenchError, plain
from saebench.report.page import write_page
from saebench.report.scorecard import Scorecard
from saebench.results import Result, read_result

Comparable = str | Path | Result | Scorecard


class Comparison(ComparedResults):
    """Several results side by side. It prints itself in a terminal and in a notebook; see ``ComparedResults``."""

    def markdown(self) -> str:
        """The tables as Markdown."""
        return _without_controls(render_markdown(self))

    def csv(self) -> str:
        """``frame()`` as comma-separated values; the conditions that differ, if any, are a column of every row."""
        frame = self.frame().assign(different_benchmarks="; ".join(self.differences))
        return _without_controls(str(frame.to_csv(index=False)))

    def page(self, path: str | Path) -> None:
        """Write a page for the browser: the tables with their verdicts, the frontiers, then everything side by side."""
        write_page(self.results, path, frontier_figures(self), self.differences, page_tables(self), table_key(self))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:

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
    """Compare results; verdicts are against the first.

    Args:
        results: result files, ``Result`` or ``Scorecard`` objects, or lists of these.
        by: compare frontiers by architecture, by ``k`` or by the number of latents ``n``.
        at: the L0 (with ``by="k"``: numbers of latents) at which to compare; by default the reference curve's own.
        metrics: those to show, by ``evaluator.name`` or by a name that is unique; all, and the headline first, by default.
        force: also show results of different benchmarks side by side. They are marked and get no verdict.

    Raises:
        SaebenchError: fewer than two results, an unreadable one, results of different benchmarks, an unknown metric.
    """
    given = [each for one in results for each in ([one] if isinstance(one, str | Path | Result | Scorecard) else one)]
    if len(given) < 2:
        raise SaebenchError("Comparing needs at least two results: give more result files.")
    if by not in get_args(By):
        raise SaebenchError(f"Results are compared by {', '.join(get_args(By))}, not by {by!r}.")
    found = [_result(each) for each in given]
    differences = require_one_benchmark(found, force)
    return Comparison(
        tuple(found), _names(found), tuple(choose(found, metrics)), by, tuple(at), tuple(differences), bool(metrics)
    )  # fmt: skip


def _without_controls(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


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
