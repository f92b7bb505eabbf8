"""`saebench leaderboard`: start, submit, check, build, import-saebench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(help="Submit results to leaderboards, check them, and build their site.", no_args_is_help=True)
console = Console(soft_wrap=True)

Root = Annotated[Path, typer.Option(help="The leaderboards' folder.")]
ROOT = Path("leaderboards")


@app.command()
def start(
    result: Annotated[Path, typer.Argument(help="A result file with the conditions that all submissions must have.")],
    title: Annotated[str, typer.Option(help="Title of the leaderboard.")],
    controls: Annotated[str, typer.Option(help="Controls required of every submission, separated by commas.")] = "random,pca,reinitialised",
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Start a leaderboard: write its benchmark.toml from a result."""
    from saebench.leaderboard.submit import start as run
    from saebench.results import read_result

    path = run(read_result(result), title, [name.strip() for name in controls.split(",") if name.strip()], root)
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
    recompute: Annotated[str | None, typer.Option(help="A checkpoint: recompute its cheap metrics and compare.")] = None,
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Check submissions; exit code 1 if there is a problem."""
    from saebench.leaderboard.checks import load_boards, problems_of
    from saebench.leaderboard.submit import recompute as repeat

    boards = load_boards(root)
    problems = [str(problem) for problem in problems_of(boards, files or [])]
    if recompute is not None and not problems:
        problems = repeat(boards, files or [], recompute)
    for problem in problems:
        console.print(Text(problem))
    if problems:
        raise typer.Exit(1)
    counts = [len(files)] if files else [sum(len(board.submissions) + len(board.imports) for board in boards)]
    again = "; the checkpoint gives the stated numbers" if recompute is not None else ""
    console.print(Text(f"{counts[0]} checked, no problems{again}."))


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
