"""The scorecard as a table: in the terminal, as Markdown, as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from saebench.errors import plain
from saebench.report.content import Line, cautions, facts, lines
from saebench.results import Result

ROOM_FOR_COUNTS = 92
ROOM_FOR_MEANINGS = 132
"""Columns a terminal needs for these; a control takes ``CONTROL_WIDTH`` more."""
CONTROL_WIDTH = 13


@dataclass(frozen=True)
class TerminalScorecard:
    """A scorecard that shows as many columns as the terminal has room for; numbers are never truncated."""

    result: Result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        head = Table.grid(padding=(0, 2))
        for name, value in facts(self.result):
            head.add_row(Text(name, style="dim"), Text(value))
        yield from (Text(), head, Text(), self._table(options.max_width))
        notes = [f"{line.name}: {line.note}" for line in lines(self.result) if line.note]
        failures = [f"{plain(name)} failed: {plain(message)}" for name, message in self.result.failures.items()]
        yield from (Text(f"— {note}", style="dim") for note in notes)
        yield from (Text(each, style="dim") for each in cautions(self.result))
        yield from (Text(failure, style="red") for failure in failures)
        yield from (Text(f"Note: {plain(each)}", style="yellow") for each in self.result.notices)
        yield Text("value ± standard error; ↓ lower is better, ↑ higher is better", style="dim")

    def _table(self, width: int) -> Table:
        room = width - CONTROL_WIDTH * len(self.result.controls)
        counts, meanings = room >= ROOM_FOR_COUNTS, room >= ROOM_FOR_MEANINGS
        table = Table(show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("Metric", no_wrap=True)
        table.add_column("Value", justify="right", no_wrap=True)
        for control in self.result.controls:
            table.add_column(Text(plain(control)), justify="right", min_width=8)
        table.add_column("", no_wrap=True)
        table.add_column("Unit")
        if counts:
            table.add_column("Over", justify="right", no_wrap=True)
        if meanings:
            table.add_column("Meaning", style="dim")
        previous = None
        for line in lines(self.result):
            if line.evaluator != previous:
                if previous is not None:
                    table.add_section()
                table.add_row(Text.assemble((line.evaluator, "bold cyan"), (f"  {line.seconds:.1f} s", "dim")))
                previous = line.evaluator
            table.add_row(*self._cells(line, counts, meanings))
        return table

    def _cells(self, line: Line, counts: bool, meanings: bool) -> list[Text]:
        shown = [f"  {line.name}", line.value, *line.short_controls, line.arrow, line.unit]
        return [Text(each) for each in shown + [line.count] * counts + [line.description] * meanings]


def render_terminal(result: Result) -> RenderableType:
    """The scorecard for a terminal; it adapts to the terminal's width."""
    return TerminalScorecard(result)


def render_text(result: Result, width: int = 140) -> str:
    """The scorecard as plain text."""
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render_terminal(result))
    return capture.get()


def render_markdown(result: Result) -> str:
    """The scorecard as Markdown."""
    head = ["|  |  |", "|---|---|", *(f"| {name} | {markdown_cell(value)} |" for name, value in facts(result)), ""]
    controls = list(result.controls)
    body = [
        "| Metric | Value |"
        + "".join(f" {markdown_cell(control)} |" for control in controls)
        + " Better | Unit | Over | Meaning |",
        "|---|--:|" + "--:|" * len(controls) + "---|---|--:|---|",
    ]
    notes = []
    for line in lines(result):
        values = [line.value, *line.controls]
        cells = [f"{line.evaluator}.{line.name}", *values, line.arrow, line.unit, line.count, line.description]
        body.append("| " + " | ".join(markdown_cell(cell) for cell in cells) + " |")
        if line.note:
            notes.append(f"- {markdown_cell(f'{line.evaluator}.{line.name}')}: {markdown_cell(line.note)}")
    notes += [f"- {markdown_cell(name)} failed: {markdown_cell(message)}" for name, message in result.failures.items()]
    notes += [f"- Note: {markdown_cell(each)}" for each in result.notices]
    return "\n".join([*head, *body, *(["", *notes] if notes else []), ""])


_ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|\\`*[]~$"})


def markdown_cell(text: str) -> str:
    """Text that cannot end a table cell or become markup, a link or an image."""
    return " ".join(plain(text).translate(_ENTITIES).split())
