"""`saebench compare`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from saebench.errors import SaebenchError, plain
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.comparison.compare import Comparison

console = terminal()


class By(StrEnum):
    """What frontiers are compared by."""

    arch = "arch"
    k = "k"
    n = "n"


class Format(StrEnum):
    """Format of the tables."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"


def compare(
    results: Annotated[list[Path], typer.Argument(help="Result files; verdicts are against the first.")],
    by: Annotated[By, typer.Option(help="Compare frontiers by architecture, k or number of latents.")] = By.arch,
    at: Annotated[str, typer.Option(help="L0 at which to compare, such as 16,32; with --by k numbers of latents.")] = "",
    metric: Annotated[list[str] | None, typer.Option(help="A metric to show, such as downstream.kl_divergence; repeatable.")] = None,
    format: Annotated[Format, typer.Option(help="Format of the output.")] = Format.terminal,
    html: Annotated[Path | None, typer.Option(help="Also write a page with frontier figures here.")] = None,
    against_controls: Annotated[bool, typer.Option("--against-controls", help="Instead compare each SAE with its controls, paired and corrected for the number of tests.")] = False,
    force: Annotated[bool, typer.Option(help="Also show results of different benchmarks, marked and without verdicts.")] = False,
) -> None:  # fmt: skip
    """Compare results: tables, frontiers at matched L0, and a verdict for each metric."""
    from saebench.comparison.compare import compare as run

    found = run(results, by=by.value, at=_numbers(at), metrics=metric or [], force=force)
    if against_controls:
        _against_controls(found, metric or [], format)
        return
    if format is Format.terminal:
        console.print(found)
    else:
        typer.echo(found.markdown() if format is Format.markdown else found.csv(), nl=False)
    if html is not None:
        found.page(html)
        terminal(stderr=True).print(Text(f"Page: {html}"))


def _against_controls(found: Comparison, metrics: list[str], format: Format) -> None:
    from saebench.comparison.controls import against_controls as run
    from saebench.comparison.controls import control_frame, summary_frame
    from saebench.report.tables import markdown_cell

    rows = run(found.results, found.names, found.metrics if metrics else ())
    if format is Format.csv:
        typer.echo(control_frame(rows).to_csv(index=False), nl=False)
        return
    frame = summary_frame(rows)
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    if format is Format.markdown:
        typer.echo("| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns))
        typer.echo("\n".join("| " + " | ".join(markdown_cell(cell) for cell in row) + " |" for row in cells))
        return
    table = Table(*map(str, frame.columns), show_edge=False)
    for row in cells:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)
    console.print(Text("Numbers of SAEs that are better than the control, not separated from it, or worse, by paired tests at "
                       "5 % after Holm's correction over all of them; --format csv has each."))  # fmt: skip


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SaebenchError(f"--at takes numbers separated by commas, not {text!r}.") from error
