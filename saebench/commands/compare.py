"""`saebench compare`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from saebench.errors import SaebenchError
from saebench.terminal import terminal

if TYPE_CHECKING:
    import pandas

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
    results: Annotated[list[str], typer.Argument(help="Result files; verdicts are against the first. With --until-decided, two checkpoints.")],
    by: Annotated[By, typer.Option(help="Compare frontiers by architecture, k or number of latents.")] = By.arch,
    at: Annotated[str, typer.Option(help="L0 at which to compare, such as 16,32; with --by k numbers of latents.")] = "",
    metric: Annotated[list[str] | None, typer.Option(help="A metric to show, such as downstream.kl_divergence; repeatable.")] = None,
    format: Annotated[Format, typer.Option(help="Format of the output.")] = Format.terminal,
    html: Annotated[Path | None, typer.Option(help="Also write a page with frontier figures here.")] = None,
    against_controls: Annotated[bool, typer.Option("--against-controls", help="Instead compare each SAE with its controls, paired and corrected for the number of tests.")] = False,
    claims: Annotated[bool, typer.Option("--claims", help="Instead test claims of papers on the results.")] = False,
    force: Annotated[bool, typer.Option(help="Also show results of different benchmarks, marked and without verdicts.")] = False,
    until_decided: Annotated[bool, typer.Option("--until-decided", help="Instead evaluate two checkpoints, up to --tokens, until their difference in each --metric is on one side or within --margin.")] = False,
    margin: Annotated[str | None, typer.Option(help="With --until-decided: a difference that does not matter, such as 0.01, or 2% of the first one's value.")] = None,
    tokens: Annotated[int | None, typer.Option(help="With --until-decided: the most tokens; 262,144 by default.")] = None,
    model: Annotated[str | None, typer.Option(help="With --until-decided: as for evaluate.")] = None,
    hook: Annotated[str | None, typer.Option(help="With --until-decided: as for evaluate.")] = None,
    corpus: Annotated[str | None, typer.Option(help="With --until-decided: as for evaluate.")] = None,
    context: Annotated[int | None, typer.Option(help="With --until-decided: as for evaluate.")] = None,
    device: Annotated[str | None, typer.Option(help="With --until-decided: as for evaluate.")] = None,
) -> None:  # fmt: skip
    """Compare results: tables, frontiers at matched L0, and a verdict for each metric."""
    settings = {"tokens": tokens, "model": model, "hook": hook, "corpus": corpus, "context": context, "device": device}
    given = {name: value for name, value in settings.items() if value is not None}
    if until_decided:
        _until_decided(results, metric or [], margin, given)
        return
    if margin is not None or given:
        named = ", ".join(f"--{name}" for name in (*(["margin"] if margin is not None else []), *given))
        raise SaebenchError(f"Results are compared as they are: use {named} only with --until-decided.")
    from saebench.comparison.compare import compare as run

    found = run(results, by=by.value, at=_numbers(at), metrics=metric or [], force=force)
    if against_controls or claims:
        _show(*(_controls if against_controls else _claims)(found, bool(metric), format is Format.csv), format)
        return
    if format is Format.terminal:
        console.print(found)
    else:
        typer.echo(found.markdown() if format is Format.markdown else found.csv(), nl=False)
    if html is not None:
        found.page(html)
        terminal(stderr=True).print(Text(f"Page: {html}"))


def _until_decided(checkpoints: list[str], metrics: list[str], margin: str | None, settings: dict[str, Any]) -> None:
    from saebench.comparison.decided import until_decided as run

    if len(checkpoints) != 2:
        raise SaebenchError(f"--until-decided compares two checkpoints, not {len(checkpoints)}.")
    decisions, results = run(*checkpoints, metrics=metrics, margin=margin, **settings)
    table = Table("Metric", "First", "Second", "Difference", "The second is", "After", show_edge=False)
    for each in decisions:
        low, high = each.interval
        difference = f"{each.second - each.first:.3g} [{low:.3g}, {high:.3g}]"
        after = f"{each.tokens:,} tokens"
        table.add_row(each.metric, f"{each.first:.4g}", f"{each.second:.4g}", difference, each.outcome, after)
    console.print(table)
    limit = results[0].corpus.tokens_requested
    console.print(Text(f"Evaluated: {results[0].corpus.tokens:,} tokens of at most {limit or 0:,}. Intervals are paired by rows; the "
                       "decisions of all looks together are wrong for at most 5 % of equal SAEs."))  # fmt: skip


def _controls(found: Comparison, chosen: bool, every: bool) -> tuple[pandas.DataFrame, str]:
    from saebench.comparison.controls import against_controls, control_frame, summary_frame

    rows = against_controls(found.results, found.names, found.metrics if chosen else ())
    return (control_frame if every else summary_frame)(rows), (
        "Numbers of SAEs that are better than the control, not separated from it, or worse, by paired tests at 5 % after "
        "Holm's correction over all of them; --format csv has each."
    )


def _claims(found: Comparison, chosen: bool, every: bool) -> tuple[pandas.DataFrame, str]:
    from saebench.comparison.claims import claim_frame, claims_on

    return claim_frame(claims_on(found.results)), (
        "The effect with its 95 % interval; verdicts at 5 % after Holm's correction over all claims. A claim that the results "
        "do not allow to test has no effect."
    )


def _show(frame: pandas.DataFrame, key: str, format: Format) -> None:
    from saebench.comparison.render import frame_tables
    from saebench.report.tables import markdown_cell

    if format is Format.csv:
        typer.echo(frame.to_csv(index=False), nl=False)
        return
    if format is Format.markdown:
        cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        typer.echo("| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns))
        typer.echo("\n".join("| " + " | ".join(markdown_cell(cell) for cell in row) + " |" for row in cells))
        return
    for part in frame_tables(frame, _cell, console.width, by="control"):
        console.print(part)
    console.print(Text(key))


def _cell(value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.4g}"
    return "" if value is None else str(value)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SaebenchError(f"--at takes numbers separated by commas, not {text!r}.") from error
