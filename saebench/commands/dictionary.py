"""`saebench dictionary`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from saebench.terminal import terminal

console = terminal()


def dictionary(
    a: Annotated[str, typer.Argument(help="Path or hub name.")],
    b: Annotated[
        str | None, typer.Argument(help="Another one on the same hook: a larger one, or one from another seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples and random dictionaries.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers here, as JSON.")] = None,
) -> None:
    """Measure a dictionary's weights; with two, also what they share and how one splits the other. Needs no model or
    text."""
    from saebench import checkpoints
    from saebench.errors import plain
    from saebench.evaluators.dictionary import geometry
    from saebench.evaluators.dictionary_pair import check_pair, compare
    from saebench.files import check_writable, write_text
    from saebench.provenance import portable_name
    from saebench.report.content import ARROWS, format_value

    if out is not None:
        check_writable(out)
    if b is not None:
        check_pair(checkpoints.inspect(a), checkpoints.inspect(b))
    metrics, details = (
        geometry(checkpoints.load_one(a), seed)
        if b is None
        else compare(checkpoints.load_one(a), checkpoints.load_one(b), seed)
    )
    table = Table("Metric", "Value", "", "What it is", show_edge=False)
    for each in metrics:
        table.add_row(each.name, format_value(each), ARROWS[each.direction], plain(each.reason or each.description))
    console.print(table)
    if out is not None:
        names = [portable_name(name) for name in (a, b) if name is not None]
        record = {
            "dictionaries": names,
            "seed": seed,
            "metrics": [each.model_dump() for each in metrics],
            "details": details,
        }
        write_text(out, json.dumps(record, indent=1, allow_nan=False) + "\n")
        console.print(Text(f"Numbers: {out}"))
