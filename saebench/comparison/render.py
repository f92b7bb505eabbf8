"""A comparison as tables: in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from saebench.comparison.compared import ComparedResults
from saebench.comparison.frontier import Matched, x_name
from saebench.comparison.headline import L0, find_metric
from saebench.comparison.samples import Sample
from saebench.comparison.verdicts import Verdict
from saebench.errors import plain
from saebench.report.content import ARROWS, format_value
from saebench.report.page import PageTable
from saebench.report.tables import markdown_cell
from saebench.results import Metric
from saebench.results.verdicts import cautions_on, mark_of

if TYPE_CHECKING:
    import pandas

MOST_SIDE_BY_SIDE = 4
"""Up to this many results are compared metric by metric; more are compared by the chosen metrics alone."""
MARKS = {"better": " ✓", "worse": " ✗", "within": " ≈", "equal": " =", "unknown": " ?"}
WIDEST_WORDS = 32
"""Columns of a terminal for names; longer names are wrapped."""
STYLES = {"better": "green", "worse": "red"}
KEY = (
    "value ± standard error; ↓ lower is better, ↑ higher is better; against the first: ✓ better, ✗ worse, "
    "≈ within its 95 % interval, ? no verdict: the interval is unknown; † a metric to be used with care, ‡ one that is no "
    "evidence, by `saebench audit`"
)


@dataclass(frozen=True)
class _Cell:
    text: str
    verdict: Verdict | None = None

    @property
    def marked(self) -> str:
        return self.text + (MARKS[self.verdict.outcome] if self.verdict is not None else "")

    def rich(self) -> Text:
        return Text(plain(self.marked), style=STYLES.get(self.verdict.outcome, "") if self.verdict is not None else "")


@dataclass(frozen=True)
class _Table:
    title: str
    header: list[str]
    rows: list[list[_Cell]]
    left: int  # columns that hold words


def render_terminal(comparison: ComparedResults, width: int) -> Iterator[RenderableType]:
    """The tables for a terminal of ``width`` columns. Numbers are never truncated: a table that is too wide is split."""
    if comparison.differences:
        yield Text(_warning(comparison), style="bold red")
    for table in _tables(comparison):
        for index, columns in enumerate(_fitting(table, width)):
            yield Text()
            yield _rich(table, columns, "" if index else table.title)
    yield Text(table_key(comparison), style="dim")


def _rich(table: _Table, columns: Sequence[int], title: str) -> Table:
    shown = Table(title=plain(title) or None, title_justify="left", show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        words = column < table.left
        shown.add_column(
            Text(plain(table.header[column])), justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*(row[column].rich() for column in columns))
    return shown


def _fitting(table: _Table, width: int) -> Iterator[list[int]]:
    """The columns of each part; the first, which names the rows, is repeated in all of them."""
    needed = [
        min(max(len(table.header[column]), *(len(row[column].marked) for row in table.rows)), WIDEST_WORDS) + 3
        if column < table.left
        else max(len(table.header[column]), *(len(row[column].marked) for row in table.rows)) + 3
        for column in range(len(table.header))
    ]
    part, used = [0], needed[0]
    for column in range(1, len(needed)):
        if used + needed[column] > width and len(part) > 1:
            yield part
            part, used = [0], needed[0]
        part.append(column)
        used += needed[column]
    yield part


def frame_tables(frame: pandas.DataFrame, cell: Callable[[object], str], width: int, by: str) -> Iterator[RenderableType]:
    """A frame for a terminal, with all columns: those that do not fit beside the first come below.

    Args:
        frame: its first column says what a row is of; columns that are empty everywhere are left out.
        cell: a value as it is shown.
        width: of the terminal, in characters.
        by: the column, where there is one, for each value of which there is a table of its own.
    """
    for group, rows in frame.groupby(by, sort=False) if by in frame else [("", frame)]:
        own = rows.drop(columns=by, errors="ignore").dropna(axis=1, how="all")
        numbers = [own[name].dtype.kind in "if" for name in own]
        header = [str(name).replace("_", " ") for name in own]
        cells = [[_Cell(cell(value)) for value in row] for row in own.itertuples(index=False)]
        table = _Table(f"Against {group!s}" if group else "", header, cells, left=[*numbers, True].index(True))
        for index, columns in enumerate(_fitting(table, width)):
            yield Text()
            yield _rich(table, columns, "" if index else table.title)


def render_markdown(comparison: ComparedResults) -> str:
    """The tables as Markdown."""
    parts = [f"**{markdown_cell(_warning(comparison))}**\n"] if comparison.differences else []
    for table in _tables(comparison):
        lines = [f"{markdown_cell(table.title)}\n"] if table.title else []
        lines.append("| " + " | ".join(map(markdown_cell, table.header)) + " |")
        lines.append("|" + "---|" * table.left + "--:|" * (len(table.header) - table.left))
        lines += ["| " + " | ".join(markdown_cell(cell.marked) for cell in row) + " |" for row in table.rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, f"{table_key(comparison)}\n"])


def page_tables(comparison: ComparedResults) -> list[PageTable]:
    """The tables for a page."""
    return [
        PageTable(
            plain(table.title),
            [plain(name) for name in table.header],
            [[(plain(cell.marked), cell.verdict.outcome if cell.verdict else "") for cell in row] for row in table.rows],
            table.left,
        )
        for table in _tables(comparison)
    ]


def _tables(comparison: ComparedResults) -> Iterator[_Table]:
    yield _overview(comparison)
    if len(comparison.results) <= MOST_SIDE_BY_SIDE:
        yield _by_metric(comparison)
    found = comparison.matched()
    if found:
        yield _matched(comparison, found)


def _overview(comparison: ComparedResults) -> _Table:
    """An autoencoder a row, its chosen metrics as columns."""
    paths = [path for path in (L0, *comparison.metrics) if any(find_metric(each, path) for each in comparison.results)]
    paths = list(dict.fromkeys(paths))
    rows = []
    for index, (name, result) in enumerate(zip(comparison.names, comparison.results, strict=True)):
        verdicts = comparison.verdicts(index, paths) if index else {}
        cells = [_Cell(_value(find_metric(result, path)), verdicts.get(path)) for path in paths]
        rows.append([_Cell(name), _Cell(result.sae.architecture), _Cell(f"{result.sae.n_latents:,}"), *cells])
    return _Table("", ["Autoencoder", "Architecture", "Latents", *(_heading(comparison, path) for path in paths)], rows, 2)


def _by_metric(comparison: ComparedResults) -> _Table:
    """Every metric that has a direction, with the verdict on each result against the first."""
    header = ["Metric", comparison.names[0]]
    for name in comparison.names[1:]:
        header += [name, "Difference [95 %]"]
    columns = [comparison.verdicts(index) for index in range(1, len(comparison.results))]
    rows = []
    for path in dict.fromkeys(path for column in columns for path in column):
        row = [_Cell(_heading(comparison, path)), _Cell(_value(find_metric(comparison.results[0], path)))]
        for result, column in zip(comparison.results[1:], columns, strict=True):
            verdict = column.get(path)
            row += [_Cell(_value(find_metric(result, path))), _Cell(_difference(verdict), verdict)]
        rows.append(row)
    return _Table("Metric by metric", header, rows, 1)


def _matched(comparison: ComparedResults, found: Sequence[Matched]) -> _Table:
    """Curves at matched places: a row for each metric, stratum and place, a column for each group."""
    groups = list(dict.fromkeys(row.curve.group for row in found))
    cells: dict[tuple[str, str, float], dict[str, _Cell]] = {}
    for row in found:
        text = _sample(row.value) + ("*" if row.interpolated else "")
        cells.setdefault((row.metric, row.curve.stratum, row.at), {})[row.curve.group] = _Cell(text, row.verdict)
    place = "latents" if x_name(comparison.by) != L0 else "L0"
    rows = [
        [_Cell(_heading(comparison, path)), _Cell(stratum), _Cell(f"{at:,.4g}"),
         *(by_group.get(group, _Cell("")) for group in groups)]
        for (path, stratum, at), by_group in cells.items()
    ]  # fmt: skip
    title = f"At matched {place} (* interpolated between measured points, both axes logarithmic)"
    return _Table(title, ["Metric", "", place, *groups], rows, 2)


def _heading(comparison: ComparedResults, path: str) -> str:
    """A metric's name, without its evaluator where no other evaluator has it, and its direction."""
    metric = next(found for result in comparison.results if (found := find_metric(result, path)) is not None)
    evaluators = {
        name for result in comparison.results for name, each in result.evaluators.items() if metric.name in each.metrics
    }
    return f"{metric.name if len(evaluators) == 1 else path} {ARROWS[metric.direction]}".strip() + mark_of(path)


def _value(metric: Metric | None) -> str:
    return "" if metric is None else format_value(metric)


def _sample(value: Sample) -> str:
    return format_value(_as_metric(value.value, value.error))


def _difference(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return format_value(_as_metric(verdict.difference, None, verdict.interval))


def _as_metric(value: float, error: float | None, interval: tuple[float, float] | None = None) -> Metric:
    return Metric(name="value", value=value, unit="1", direction="none", n=0, standard_error=error, interval=interval)


def _warning(comparison: ComparedResults) -> str:
    return f"Different benchmarks, not directly comparable: {'; '.join(comparison.differences)}."


def table_key(comparison: ComparedResults) -> str:
    """The meaning of the marks in the tables, how differences were paired, and what an audit says of the chosen metrics."""
    cautions = " ".join(("", *cautions_on(comparison.metrics)))
    if comparison.differences:
        return f"value ± standard error; no verdicts across benchmarks.{cautions}"
    return f"{KEY}; {_pairing(comparison)}.{cautions}"


def _pairing(comparison: ComparedResults) -> str:
    """By which groups the differences are paired, and which metrics are not."""
    found = [
        verdict
        for index in range(1, len(comparison.results))
        for verdict in comparison.verdicts(index).values()
        if verdict.interval is not None
    ]
    by = sorted({verdict.paired for verdict in found if verdict.paired})
    apart = list(dict.fromkeys(verdict.metric for verdict in found if not verdict.paired))
    if not by:
        return "differences are not paired"
    return f"differences are paired by {' and '.join(by)}" + (f", except of {', '.join(apart)}" if apart else "")
