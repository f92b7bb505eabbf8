"""A real browser for the pages. Where there is none, its tests skip and say why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens addresses in pages of their own; at the end none of them may have said anything on its console."""
    said: list[str] = []
    contexts = []

    def open_one(address: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # a bound for loaded machines, not a measurement
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert said == []
