"""Pages of the viewer whose console is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watched_page(browser: Any, **context: Any) -> Iterator[Any]:
    """A page of its own context; whatever its console reports as an error, or its scripts raise, fails the test."""
    found: list[str] = []
    with browser.new_context(**context) as session:
        page = session.new_page()
        page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: found.append(str(error)))
        yield page
    assert not found, found
