"""The scorecard as a table: in the terminal, as Markdown, as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from saebench.results import Metric, Result

ARROWS = {"lower": "↓", "higher": "↑", "none": ""}


@dataclass(frozen=True)
class Line:
    """One metric, ready to be shown.

    Attributes:
        value: as text, ``—`` where it is undefined.
        controls: the same metric of each control, as text.
        note: why it is undefined.
    """

    evaluator: str
    name: str
    value: str
    unit: str
    arrow: str
    count: str
    description: str
    controls: tuple[str, ...]
    note: str | None


def lines(result: Result) -> Iterator[Line]:
    """A result's metrics in order, with those of its controls beside them."""
    for evaluator, found in result.evaluators.items():
        for name, metric in found.metrics.items():
            controls = []
            for control in result.controls.values():
                theirs = control[evaluator].metrics.get(name) if evaluator in control else None
                controls.append("" if theirs is None else format_value(theirs))
            yield Line(
                evaluator=evaluator,
                name=name,
                value=format_value(metric),
                unit="" if metric.unit == "1" else metric.unit,
                arrow=ARROWS[metric.direction],
                count=f"{metric.n:,} {metric.n_unit}",
                description=metric.description,
                controls=tuple(controls),
                note=metric.reason,
            )


def format_value(metric: Metric) -> str:
    """``value ± standard error``, with two digits of the error, or as many as the value deserves without one."""
    if metric.value is None:
        return "—"
    error = metric.standard_error
    if error is None or error == 0 or not math.isfinite(error):
        return f"{metric.value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 7:
        return f"{metric.value:.4g} ± {error:.1g}"
    return f"{metric.value:.{digits}f} ± {error:.{digits}f}"


def facts(result: Result) -> list[tuple[str, str]]:
    """What was judged, on what: names and values for the head of a report."""
    sae, model, corpus = result.sae, result.model, result.corpus
    kind = ", ".join(f"{key} {value}" for key, value in sae.activation.items() if key not in ("name", "kind"))
    hooks = sae.hook_in if sae.hook_in == sae.hook_out else f"{sae.hook_in} → {sae.hook_out}"
    excluded = corpus.tokens - corpus.tokens_counted
    revision = f" ({corpus.revision})" if corpus.revision else ""
    return [
        ("Autoencoder", sae.origin),
        ("Architecture", f"{sae.architecture}{f' ({kind})' if kind else ''}, {sae.n_latents:,} latents, d = {sae.d_in}"),
        ("Model", f"{model.name}, {model.dtype}"),
        ("Hook", hooks),
        ("Text", f"{corpus.name}{revision}: {corpus.rows:,} rows of {corpus.context} tokens"),
        ("Counted", f"{corpus.tokens_counted:,} of {corpus.tokens:,} tokens; left out ({excluded:,}): {corpus.excluded}"),
    ]


ROOM_FOR_MEANINGS = 110
"""Terminals narrower than this get no column of meanings."""


def render_terminal(result: Result, width: int | None = None) -> RenderableType:
    """The scorecard for a terminal of ``width`` columns (this one's by default)."""
    meanings = (width or Console().width) >= ROOM_FOR_MEANINGS
    head = Table.grid(padding=(0, 2))
    for name, value in facts(result):
        head.add_row(Text(name, style="dim"), Text(value))
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("Metric", no_wrap=True)
    table.add_column("Value", justify="right", no_wrap=True)
    for control in result.controls:
        table.add_column(Text(control), justify="right", no_wrap=True)
    table.add_column("Unit", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("Meaning" if meanings else "", style="dim")
    notes: list[str] = []
    previous = None
    for line in lines(result):
        if line.evaluator != previous:
            if previous is not None:
                table.add_section()
            seconds = result.evaluators[line.evaluator].duration_seconds
            table.add_row(
                Text(line.evaluator, style="bold cyan"), *[""] * len(result.controls), "", "", "", f"{seconds:.1f} s"
            )
            previous = line.evaluator
        if line.note:
            notes.append(f"{line.name}: {line.note}")
        table.add_row(
            Text(f"  {line.name}"),
            Text(line.value),
            *map(Text, line.controls),
            line.unit,
            line.arrow,
            Text(line.description if meanings else ""),
        )
    notes += [f"{name} failed: {message}" for name, message in result.failures.items()]
    foot = [Text(f"— {note}", style="dim") for note in notes]
    return Group(Text(), head, Text(), table, *foot, Text("↓ lower is better, ↑ higher is better", style="dim"))


def render_text(result: Result, width: int = 140) -> str:
    """The scorecard as plain text."""
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render_terminal(result, width))
    return capture.get()


def render_markdown(result: Result) -> str:
    """The scorecard as Markdown."""
    head = ["|  |  |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in facts(result)), ""]
    controls = list(result.controls)
    body = [
        "| Metric | Value |" + "".join(f" {_cell(control)} |" for control in controls) + " Unit | Better | Over | Meaning |",
        "|---|--:|" + "--:|" * len(controls) + "---|---|--:|---|",
    ]
    notes = []
    for line in lines(result):
        values = [line.value, *line.controls]
        cells = [f"{line.evaluator}.{line.name}", *values, line.unit, line.arrow, line.count, line.description]
        body.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        if line.note:
            notes.append(f"- {line.evaluator}.{line.name}: {_cell(line.note)}")
    notes += [f"- {name} failed: {_cell(message)}" for name, message in result.failures.items()]
    return "\n".join([*head, *body, *(["", *notes] if notes else []), ""])


def _cell(text: str) -> str:
    """Text that cannot end a table cell or become markup."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())
