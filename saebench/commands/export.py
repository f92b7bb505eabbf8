"""`saebench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from saebench.terminal import terminal

console = terminal()


def export(
    results: Annotated[list[Path], typer.Argument(help="Result files.")],
    out: Annotated[Path, typer.Option(help="Folder to write to, with a folder for each evaluation.")],
    format: Annotated[Literal["saebench"], typer.Option(help="Whose files: saebench (SAEBench 0.6).")] = "saebench",
) -> None:
    """Write results in another suite's format; `saebench leaderboard import-saebench` reads it."""
    from saebench.leaderboard.saebench_export import export_saebench
    from saebench.results import read_result

    found = export_saebench({path.stem: read_result(path) for path in results}, out)
    for sentence in found.left_out:
        console.print(Text(sentence))
    console.print(Text(f"Wrote {len(found.files)} {'file' if len(found.files) == 1 else 'files'} to {out}."))
