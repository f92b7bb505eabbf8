"""`saebench compare`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saebench.errors import SaebenchError
from saebench.terminal import terminal

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
    force: Annotated[bool, typer.Option(help="Also show results of different benchmarks, marked and without verdicts.")] = False,
) -> None:  # fmt: skip
    """Compare results: tables, frontiers at matched L0, and a verdict for each metric."""
    from saebench.comparison.compare import compare as run

    found = run(results, by=by.value, at=_numbers(at), metrics=metric or [], force=force)
    if format is Format.terminal:
        console.print(found)
    else:
        typer.echo(found.markdown() if format is Format.markdown else found.csv(), nl=False)
    if html is not None:
        found.page(html)
        terminal(stderr=True).print(Text(f"Page: {html}"))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SaebenchError(f"--at takes numbers separated by commas, not {text!r}.") from error
