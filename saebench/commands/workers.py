"""The options of commands that distribute their work: ``--on``, ``--workers`` and ``--address``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from saebench.errors import SaebenchError
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.distributed.workers import Workers

On = Annotated[
    str | None, typer.Option(help="Distribute to several workers: local (processes of this machine) or ray (a cluster).")
]
Count = Annotated[
    int | None, typer.Option(help="With --on: how many. By default 1, and on Ray one on each GPU, or else CPU.")
]
Address = Annotated[str | None, typer.Option(help="With --on ray: the cluster's, such as auto or ray://head:10001.")]


def chosen_workers(on: str | None, workers: int | None, address: str | None) -> Workers | None:
    """What the options say; None for this process alone.

    Raises:
        SaebenchError: they do not go together.
    """
    if on is None:
        if workers is not None or address is not None:
            raise SaebenchError("--workers and --address say how --on distributes: add --on local or --on ray.")
        return None
    from saebench.distributed.workers import Workers

    return Workers(on, workers, address)


def end_with_rejected(rejected: Mapping[int, str], of: int, words: str) -> NoReturn:
    """Print why some of several were left out, by number, and end with exit code 1."""
    reasons = " ".join(rejected[number] for number in sorted(rejected))
    terminal(stderr=True).print(Text(f"Error: {len(rejected)} of {of} {words}: {reasons}", style="red"))
    raise typer.Exit(1)
