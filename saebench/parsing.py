"""JSON and TOML of strangers: text that Python's own parsers accept and later code would fail on is refused here.

And lists of names as users write them.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

DEEPEST = 100
"""Levels of lists and tables. Real files have under ten; Python's own limit is met far from where a file is read."""

LARGEST = 10_000
"""Bits of a whole number; Python refuses to write longer ones."""


def parse_json(text: str, **options: Any) -> Any:
    """JSON data.

    Args:
        text: to parse.
        options: of ``json.loads``.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds half of a surrogate pair; the message is one line.
    """
    try:
        return _checked(json.loads(text, **options))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """TOML data.

    Raises:
        ValueError: as ``parse_json``; or a date or a time, which no file of saebench has.
    """
    try:
        found: dict[str, Any] = _checked(tomllib.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def names_in(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _checked(data: Any) -> Any:
    level = [data]
    for _ in range(DEEPEST):
        if not level:
            return data
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.keys()
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str):
                _check_text(each)
            elif isinstance(each, int) and each.bit_length() > LARGEST:
                raise ValueError("it holds a whole number of thousands of digits")
            elif each is not None and not isinstance(each, bool | int | float):
                raise ValueError(f"it holds the date or time {each}: write it as text")
        level = below
    raise ValueError("it is nested too deeply")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no character") from None
