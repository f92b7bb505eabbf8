"""A real browser for tests: Playwright driving the machine's own Chromium; without either the tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def open_browser() -> Iterator[Any]:
    """A Playwright ``Browser``; its pages see this machine only."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run `make browser`")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: run `make browser`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


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
