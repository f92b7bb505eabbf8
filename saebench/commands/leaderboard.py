"""`saebench leaderboard`: start, submit, check, reproduce, build, import-saebench."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saebench.terminal import terminal

app = typer.Typer(help="Submit results to leaderboards, check them, and build their site.", no_args_is_help=True)
console = terminal(soft_wrap=True)

Root = Annotated[Path, typer.Option(help="The leaderboards' folder.")]
ROOT = Path("leaderboards")
MOST_SHOWN = 20


@app.command()
def start(
    result: Annotated[Path, typer.Argument(help="A result file with the conditions that all submissions must have.")],
    title: Annotated[str, typer.Option(help="Title of the leaderboard.")],
    controls: Annotated[str, typer.Option(help="Controls required of every submission, separated by commas.")] = "random,pca,reinitialised",
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Start a leaderboard: write its benchmark.toml from a result."""
    from saebench.leaderboard.submit import start as run
    from saebench.parsing import names_in
    from saebench.results import read_result

    path = run(read_result(result), title, names_in(controls), root)
    console.print(Text(f"Written: {path}"))


@app.command()
def submit(
    result: Annotated[Path, typer.Argument(help="A result file.")],
    origin: Annotated[str, typer.Option(help="Where the weights are available: an address, a hub name, or how to make them.")],
    licence: Annotated[str, typer.Option(help="Licence of the weights.")],
    contact: Annotated[str, typer.Option(help="Who answers questions.")],
    name: Annotated[str | None, typer.Option(help="Name of the entry; by default from the architecture, n and L0.")] = None,
    command: Annotated[str | None, typer.Option(help="Command that reproduces the weights.")] = None,
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Write a submission to the leaderboard whose benchmark the result follows."""
    from saebench.leaderboard.submit import submit as run
    from saebench.results import read_result

    path = run(read_result(result), root, name, origin, licence, contact, command)
    console.print(Text(f"Written: {path}"))


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Submissions; all of them by default.")] = None,
    root: Root = ROOT,
) -> None:
    """Check submissions; exit code 1 if there is a problem."""
    from saebench.leaderboard.checks import load_boards, problems_of

    boards = load_boards(root)
    problems = problems_of(boards, files or [])
    for problem in problems:
        console.print(Text(str(problem)))
    if problems:
        raise typer.Exit(1)
    counts = len(files) if files else sum(len(board.submissions) + len(board.imports) for board in boards)
    console.print(Text(f"{counts} checked, no problems."))


@app.command()
def reproduce(
    entry: Annotated[Path, typer.Argument(help="A submission's file.")],
    checkpoint: Annotated[str, typer.Argument(help="Its checkpoint: a folder, a file or a hub name.")],
    rows: Annotated[str, typer.Option(help="Share of the rows, tasks and explained latents to evaluate again.")] = "5%",
    seed: Annotated[int | None, typer.Option(help="Draws the same part again; by default it is unpredictable.")] = None,
    mark: Annotated[bool, typer.Option(help="Where all agrees, record it in verified.json beside the entry.")] = False,
    data_dir: Annotated[str | None, typer.Option(help="Folder with the files of probing data sets.")] = None,
    root: Root = ROOT,
) -> None:
    """Evaluate a random part of a submission again and compare it value by value; exit code 1 if something differs."""
    from saebench.leaderboard.submit import reproduce as run
    from saebench.progress import Progress

    drawn = secrets.randbelow(2**31) if seed is None else seed
    found = run(entry, checkpoint, root, _share(rows), drawn, mark, data_dir, Progress())
    for problem in found.problems[:MOST_SHOWN]:
        console.print(Text(problem))
    if found.problems:
        more = len(found.problems) - MOST_SHOWN
        console.print(
            Text(f"{len(found.problems):,} values differ{f' ({more:,} not shown)' if more > 0 else ''}; seed {drawn}.")
        )
        raise typer.Exit(1)
    console.print(Text(f"{entry}: the checkpoint gives the stated values of {found.part}; seed {drawn}."))
    if found.marked is not None:
        console.print(Text(f"Written: {found.marked}"))


def _share(text: str) -> float:
    """A share from ``5%`` or ``0.05``."""
    from saebench.errors import SaebenchError

    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise SaebenchError(f"--rows {text} is no share: give one above 0% and up to 100%, such as 5%.")
    return value


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the site.")] = Path("site"),
    root: Root = ROOT,
) -> None:
    """Build the site: static pages that open from a file."""
    from saebench.leaderboard.site import build as run

    pages = run(root, out)
    console.print(Text(f"{pages:,} {'entry' if pages == 1 else 'entries'}: {out / 'index.html'}"))


@app.command("import-saebench")
def import_saebench(
    files: Annotated[list[Path], typer.Argument(help="SAEBench's result files, or folders of them.")],
    hook: Annotated[str | None, typer.Option(help="Hook of SAEs whose files and names do not tell it.")] = None,
    model: Annotated[str | None, typer.Option(help="Language model of SAEs whose files do not name it.")] = None,
    root: Root = ROOT,
) -> None:
    """Import results of SAEBench into the tables, marked as measured by another suite; exit code 1 if a part could not be."""
    from saebench.leaderboard.submit import import_results

    written, problems = import_results(files, root, hook, model)
    for path in written:
        console.print(Text(f"Written: {path}"))
    for problem in problems:
        console.print(Text(f"Not imported: {problem}."))
    if problems:
        raise typer.Exit(1)
