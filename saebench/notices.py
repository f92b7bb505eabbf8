"""Notices about slower or unusual paths of a run, shown once on the terminal and recorded in its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.text import Text

from saebench.errors import plain
from saebench.terminal import terminal

_collected: ContextVar[tuple[list[str], ...]] = ContextVar("notices", default=())
_said: set[str] = set()


def notice(sentence: str) -> None:
    """Print a sentence on standard error, once per process, and add it to the notices being collected."""
    sentence = plain(sentence)
    for notices in _collected.get():
        if sentence not in notices:
            notices.append(sentence)
    if sentence not in _said:
        _said.add(sentence)
        terminal(stderr=True).print(Text(f"Note: {sentence}", style="yellow"))


@contextmanager
def collect_notices() -> Iterator[list[str]]:
    """Within this context, notices are added to the list that it yields, in order and without duplicates."""
    notices: list[str] = []
    token = _collected.set((*_collected.get(), notices))
    try:
        yield notices
    finally:
        _collected.reset(token)
