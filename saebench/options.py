"""Settings of single evaluators, as the command line writes them: ``evaluator.name=value``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from saebench.errors import SaebenchError


def read_options(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``evaluator.name=value`` settings by evaluator; a value is JSON where it can be read so, else text.

    Raises:
        SaebenchError: a setting is not written so.
    """
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        where, equals, text = setting.partition("=")
        evaluator, _, name = where.strip().partition(".")
        if not (equals and evaluator and name):
            raise SaebenchError(f"{setting!r} is not a setting: write it as evaluator.name=value.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text.strip()
        found.setdefault(evaluator, {})[name] = value
    return found
