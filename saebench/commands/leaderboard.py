"""`saebench leaderboard`: start, submit, check, build, import-saebench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

app = typer.Typer(help="Submit results to leaderboards, check them, and make their site.", no_args_is_help=True)
console = Console(soft_wrap=True)

Root = Annotated[Path, typer.Option(help="The leaderboards' folder.")]
ROOT = Path("leaderboards")


@app.command()
def start(
    result: Annotated[Path, typer.Argument(help="A result file made the way all submissions shall be.")],
    title: Annotated[str, typer.Option(help="Of the leaderboard.")],
    controls: Annotated[str, typer.Option(help="That every submission must have, separated by commas.")] = "random,pca,reinitialised",
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Begin a leaderboard: write its benchmark.toml from a result."""
    from saebench.leaderboard.submit import start as run
    from saebench.results import read_result

    path = run(read_result(result), title, [name.strip() for name in controls.split(",") if name.strip()], root)
    console.print(Text(f"Written: {path}"))


@app.command()
def submit(
    result: Annotated[Path, typer.Argument(help="A result file.")],
    origin: Annotated[str, typer.Option(help="Where the weights can be had: an address, a hub name, or how to make them.")],
    licence: Annotated[str, typer.Option(help="Of the weights.")],
    contact: Annotated[str, typer.Option(help="Who answers questions.")],
    name: Annotated[str | None, typer.Option(help="Of the entry; made of the architecture, n and L0 by default.")] = None,
    command: Annotated[str | None, typer.Option(help="What makes the weights again.")] = None,
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Write a submission into the leaderboard whose benchmark the result follows."""
    from saebench.leaderboard.submit import submit as run
    from saebench.results import read_result

    path = run(read_result(result), root, name, origin, licence, contact, command)
    console.print(Text(f"Written: {path}"))


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Submissions; all of them by default.")] = None,
    recompute: Annotated[str | None, typer.Option(help="A checkpoint: compute its cheap metrics again and compare.")] = None,
    root: Root = ROOT,
) -> None:  # fmt: skip
    """Check submissions; exit code 1 where something is wrong."""
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
    console.print(Text(f"{counts[0]} checked, nothing wrong{again}."))


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the site.")] = Path("site"),
    root: Root = ROOT,
) -> None:
    """Make the site: static pages that open from a file."""
    from saebench.leaderboard.site import build as run

    pages = run(root, out)
    console.print(Text(f"{pages:,} {'entry' if pages == 1 else 'entries'}: {out / 'index.html'}"))


@app.command("import-saebench")
def import_saebench(
    files: Annotated[list[Path], typer.Argument(help="SAEBench's *_eval_results.json.")],
    root: Root = ROOT,
) -> None:
    """Take results of SAEBench into the tables, marked as measured elsewhere."""
    from saebench.leaderboard.submit import import_results

    for path in import_results(files, root):
        console.print(Text(f"Written: {path}"))
