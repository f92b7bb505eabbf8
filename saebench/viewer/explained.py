"""Entries of a result file for single latents: N2G tries, explanations, scores, from any evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saebench.results import Result, read_result

LONGEST_LIST = 200
LONGEST_TEXT = 4000
HIDDEN = {"latent", "examples", "tokens"}
"""Fields that the page shows otherwise, or that only repeat others."""


def explained_latents(path: str | Path, n_latents: int) -> dict[int, dict[str, Any]]:
    """The entries of ``details["latents"]``, by latent and evaluator.

    That is a list of objects with ``latent``, or an object by number.

    Raises:
        SaebenchError: the file is not a valid result.
    """
    result: Result = read_result(path)
    found: dict[int, dict[str, Any]] = {}
    for name, evaluator in result.evaluators.items():
        for latent, record in _entries(evaluator.details.get("latents")):
            if 0 <= latent < n_latents:
                shown = {key: _bounded(value) for key, value in record.items() if key not in HIDDEN}
                found.setdefault(latent, {})[name] = shown
    return found


def _entries(latents: Any) -> list[tuple[int, dict[str, Any]]]:
    if isinstance(latents, dict):
        named = [(key, value) for key, value in latents.items() if isinstance(value, dict)]
        return [(int(key), value) for key, value in named if key.isascii() and key.isdigit() and len(key) < 16]
    if isinstance(latents, list):
        records = [value for value in latents if isinstance(value, dict)]
        return [(value["latent"], value) for value in records if type(value.get("latent")) is int]
    return []


def _bounded(value: Any, depth: int = 0) -> Any:
    """The value with long lists and texts truncated, and limited depth."""
    if depth > 12:
        return "..."
    if isinstance(value, dict):
        return {str(key)[:200]: _bounded(each, depth + 1) for key, each in list(value.items())[:LONGEST_LIST]}
    if isinstance(value, list):
        return [_bounded(each, depth + 1) for each in value[:LONGEST_LIST]]
    return value[:LONGEST_TEXT] if isinstance(value, str) else value
