"""A table with a row for each metric, as the pages show it: which columns there are, and what stands in the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from saebench.errors import plain
from saebench.report.content import Line, lines
from saebench.results import Result

KEY = "Value ± standard error; ↓ lower is better, ↑ higher is better"


@dataclass(frozen=True)
class MetricRow:
    """A metric. ``cells`` are its numbers as text, each with a class of the style sheet; ``mark`` is the audit's."""

    name: str
    unit: str
    direction: str
    description: str
    note: str | None
    cells: tuple[tuple[str, str], ...]
    mark: str = ""

    @staticmethod
    def of(line: Line, cells: Iterable[tuple[str, str]], brief: bool = False) -> MetricRow:
        """A row for a line of a report; without description and note where it is ``brief``."""
        note, description = (None, "") if brief else (line.note, line.description)
        return MetricRow(line.name, line.unit, line.direction, description, note, tuple(cells), line.mark)


@dataclass(frozen=True)
class MetricGroup:
    """The metrics of an evaluator; ``seconds`` that it took, where they are shown."""

    name: str
    rows: tuple[MetricRow, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class MetricTable:
    """What ``metric_table`` of ``macros.html`` shows."""

    caption: str
    headings: tuple[str, ...]
    groups: tuple[MetricGroup, ...]
    key: str = KEY


def scorecard_table(result: Result, interval: Callable[[Line], str] | None = None) -> MetricTable:
    """The scorecard of a result with its controls; with ``interval``, a column of 95 % intervals and no seconds."""
    controls = [plain(control) for control in result.controls]
    groups = []
    for name, of_evaluator in groupby(lines(result), key=lambda line: line.evaluator):
        found = list(of_evaluator)
        rows = [
            MetricRow.of(
                line,
                [(line.value, "value"), *([(interval(line), "soft")] if interval else []),
                 *((control, "soft") for control in line.controls), (line.count, "soft")],
            )
            for line in found
        ]  # fmt: skip
        groups.append(MetricGroup(name, tuple(rows), None if interval else found[0].seconds))
    headings = ["Value", *(["95 % interval"] if interval else []), *controls, "Over"]
    caption = f"Scorecard of {plain(result.sae.origin)}"
    key = KEY + (". Controls are autoencoders that should do badly" if interval and controls else "")
    return MetricTable(caption, tuple(headings), tuple(groups), key)


def side_by_side_table(results: Sequence[Result], value: Callable[[Line | None], str]) -> MetricTable:
    """Every metric as a row, every autoencoder as a column."""
    columns = [{(line.evaluator, line.name): line for line in lines(result)} for result in results]
    named: dict[str, dict[str, Line]] = {}
    for column in columns:
        for (evaluator, name), line in column.items():
            named.setdefault(evaluator, {}).setdefault(name, line)
    groups = tuple(
        MetricGroup(
            evaluator,
            tuple(
                MetricRow.of(line, [(value(each.get((evaluator, name))), "") for each in columns], brief=True)
                for name, line in metrics.items()
            ),
        )
        for evaluator, metrics in named.items()
    )
    return MetricTable("All autoencoders side by side", tuple(plain(result.sae.origin) for result in results), groups)
