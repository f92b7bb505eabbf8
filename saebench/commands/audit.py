"""`saebench audit`: whether metrics can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from saebench.commands.threads import usable_cores
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.audit.verdicts import Audited

console = terminal()
audit = typer.Typer(no_args_is_help=True, help="Audit the metrics themselves: lenses, thresholds, verdicts.")
Out = Annotated[Path, typer.Option(help="Folder for audit.json and audit.html.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few doses and autoencoders, in under a minute.")]
Seed = Annotated[int, typer.Option(help="Of the planted world and of everything random.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core. Numbers do not depend on it.")]


@audit.command()
def planted(out: Out, quick: Quick = False, seed: Seed = 0, workers: Workers = 0) -> None:
    """Audit every metric on a planted model, whose true features are known."""
    from saebench.audit.planted_audit import audit_planted
    from saebench.progress import Progress

    _show(audit_planted(out, quick, seed, workers=_count(workers, quick), progress=Progress(True)), out)


@audit.command()
def evaluator(
    name: Annotated[str, typer.Argument(help="An installed evaluator, built in or plugged in.")],
    out: Out,
    quick: Quick = False,
    seed: Seed = 0,
    workers: Workers = 0,
) -> None:
    """Audit the metrics of one evaluator on the planted model."""
    from saebench.audit.planted_audit import audit_planted
    from saebench.progress import Progress

    _show(audit_planted(out, quick, seed, evaluator=name, workers=_count(workers, quick), progress=Progress(True)), out)


@audit.command()
def references(
    runs: Annotated[Path, typer.Argument(help="Folder with result files of reference autoencoders.")],
    out: Out,
) -> None:
    """Audit metrics on results of real reference autoencoders and their controls."""
    from saebench.audit.references import audit_references

    _show(audit_references(runs, out), out)


def _count(workers: int, quick: bool) -> int:
    """Processes: as asked for, else one on each core, but for a quick audit, which is over sooner than they start."""
    return workers or (1 if quick else usable_cores())


def _show(audited: Sequence[Audited], out: Path) -> None:
    table = Table("Metric", "Verdict", "Lens", "Why")
    for each in audited:
        verdict = each.verdict
        table.add_row(
            Text(verdict.metric), f"{verdict.mark} {verdict.standing}", verdict.lens or "-", Text(verdict.sentence)
        )
    console.print(table)
    console.print(Text(f"Wrote {out / 'audit.json'} and {out / 'audit.html'}."))
