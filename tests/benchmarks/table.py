"""What a benchmark returns, and the table it is printed as."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured figure and its target; ``note`` says how it was measured, or why it was not."""

    what: str
    measured: str
    bar: str = ""
    note: str = ""


def show(title: str, rows: Sequence[Row]) -> None:
    table = Table("What", "Measured", "Bar", "How", title=title, title_justify="left")
    for row in rows:
        table.add_row(row.what, row.measured, row.bar, row.note)
    Console(width=150).print(table)


def peer_python(name: str) -> Path | None:
    """The interpreter of a peer's own environment: in ``$SAEBENCH_PEERS/<name>``, by default beside the repository."""
    root = Path(os.environ.get("SAEBENCH_PEERS", Path(__file__).parents[3] / "peers"))
    python = root / name / "bin" / "python"
    return python if python.exists() else None


def run_peer(name: str, script: str, *arguments: str) -> str | None:
    """Run a script of this folder in a peer's environment; its standard output, or None where the peer is absent."""
    python = peer_python(name)
    if python is None:
        return None
    command = [str(python), str(Path(__file__).parent / script), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{script} failed in the environment {name}:\n{done.stderr[-2000:]}")
    return done.stdout
