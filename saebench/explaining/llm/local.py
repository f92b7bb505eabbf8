"""Endpoints within this process: functions that answer in place of a server, such as a reader whose answers are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answering = Callable[[dict[str, Any]], str]
"""From the parameters of a chat-completions request to the text of its answer."""

_numbers = itertools.count(1)
_open: dict[str, Answering] = {}


@contextmanager
def answered_here(answer: Answering) -> Iterator[str]:
    """The address under which ``answer`` is an endpoint within this context, in this process alone.

    Its answers are not cached: to ask again costs no more than to read them.
    """
    url = f"http://this-process.invalid/{next(_numbers)}/v1"
    _open[url] = answer
    try:
        yield url
    finally:
        del _open[url]


def answering_here(url: str) -> Answering | None:
    """What answers under this address, where it is an endpoint within this process."""
    return _open.get(url)
