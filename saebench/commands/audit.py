"""`saebench audit`: whether metrics can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from saebench.commands import options
from saebench.commands.threads import usable_cores
from saebench.commands.workers import Address, Count, On, chosen_workers
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.audit.verdicts import Audited
    from saebench.distributed.workers import Workers

console = terminal()
audit = typer.Typer(no_args_is_help=True, help="Audit the metrics themselves: lenses, thresholds, verdicts.")
Out = Annotated[Path, typer.Option(help="Folder for audit.json and audit.html.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few doses and autoencoders, in under a minute.")]
Seed = Annotated[int, typer.Option(help="Of the planted world and of everything random.")]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="How many. By default one on each core, with --quick or --on local 1, on Ray one on each CPU."),
]


@audit.command()
def planted(
    out: Out, quick: Quick = False, seed: Seed = 0, on: On = None, workers: Processes = None, address: Address = None
) -> None:
    """Audit every metric on a planted model, whose true features are known."""
    from saebench.audit.planted_audit import audit_planted
    from saebench.progress import Progress

    chosen = _workers(on, workers, address, quick)
    _show(audit_planted(out, quick, seed, workers=chosen, progress=Progress(True)), out)


@audit.command()
def evaluator(
    name: Annotated[str, typer.Argument(help="An installed evaluator, built in or plugged in.")],
    out: Out,
    quick: Quick = False,
    seed: Seed = 0,
    on: On = None,
    workers: Processes = None,
    address: Address = None,
) -> None:
    """Audit the metrics of one evaluator on the planted model."""
    from saebench.audit.planted_audit import audit_planted
    from saebench.progress import Progress

    chosen = _workers(on, workers, address, quick)
    _show(audit_planted(out, quick, seed, evaluator=name, workers=chosen, progress=Progress(True)), out)


@audit.command()
def references(
    runs: Annotated[
        Path, typer.Argument(help="Folder of `saebench sweep`, or one with result files, such as a leaderboard's.")
    ],
    out: Out,
    corpus: Annotated[str, typer.Option(help="Held-out text, as for evaluate.")] = "python-docs",
    suite: Annotated[
        str, typer.Option(help="Pinned settings of the evaluation: quick, standard, full or saebench.")
    ] = "standard",
    evaluators: Annotated[str, typer.Option(help="Instead of a suite: names, separated by commas.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="With --evaluators: tokens of the text.")] = 32_768,
    controls: Annotated[str, typer.Option(help="With --evaluators: names, separated by commas.")] = "random,pca",
    data_dir: options.DataDir = None,
    on: On = None,
    workers: Count = None,
    address: Address = None,
) -> None:
    """Audit metrics on reference autoencoders and their controls; what was evaluated before is not repeated."""
    from saebench.audit.references import audit_references
    from saebench.evaluation.settings import EvaluationSettings
    from saebench.parsing import names_in
    from saebench.progress import Progress
    from saebench.suites import read_suite

    distributed = chosen_workers(on, workers, address)
    given: dict[str, Any] = {"corpus": corpus, "data_dir": data_dir}
    if evaluators:
        given |= {"evaluators": names_in(evaluators), "tokens": tokens, "controls": names_in(controls)}
    else:
        given = read_suite(suite).apply(given)
    _show(audit_references(runs, out, EvaluationSettings(**given), Progress(True), distributed), out)


@audit.command()
def agree(
    folders: Annotated[list[Path], typer.Argument(help="Folders of `saebench audit planted` with different seeds.")],
    out: Annotated[Path, typer.Option(help="File for the verdicts that all of them give.")],
) -> None:
    """Write one verdict on each metric from audits of several planted models; where they differ, `use with care`."""
    from saebench.audit.agreement import agreed_data
    from saebench.files import check_writable, write_text

    check_writable(out)
    write_text(out, agreed_data(folders))
    console.print(Text(f"Wrote {out}."))


def _workers(on: str | None, count: int | None, address: str | None, quick: bool) -> Workers | None:
    """Without ``--on``, processes of this machine; a quick audit is over sooner than they start."""
    if on is not None or address is not None:
        return chosen_workers(on, count, address)
    count = count or (1 if quick else usable_cores())
    return None if count == 1 else chosen_workers("local", count, None)


def _show(audited: Sequence[Audited], out: Path) -> None:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("Metric", no_wrap=True)
    for heading in ("Verdict", "Lens", "Why"):
        table.add_column(heading)
    for each in audited:
        verdict = each.verdict
        table.add_row(
            Text(verdict.metric), f"{verdict.mark} {verdict.standing}", verdict.lens or "-", Text(verdict.sentence)
        )
    console.print(table)
    counts = Counter(each.verdict.standing for each in audited)
    console.print(Text(", ".join(f"{count} {standing}" for standing, count in counts.most_common()) + "."))
    console.print(Text(f"Wrote {out / 'audit.json'} and {out / 'audit.html'}."))
