"""Settings of single evaluators: whole numbers with defaults, checked before heavy work."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.errors import SaebenchError


def read_options(evaluator: str, given: Mapping[str, Any], defaults: Mapping[str, int]) -> dict[str, int]:
    """The evaluator's ``defaults``, updated with the user's options.

    Raises:
        SaebenchError: an option is unknown (the nearest is suggested), not a whole number, or below 1.
    """
    for name, value in given.items():
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else "it has none."
            raise SaebenchError(f"The evaluator {evaluator} has no option {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SaebenchError(f"The option {name} of the evaluator {evaluator} is {value!r}; it must be 1 or more.")
    return {**defaults, **given}


def parse_options(texts: Sequence[str], evaluators: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options as the command line gives them, ``evaluator.option=value`` each, by evaluator.

    A value is parsed as JSON where possible, else it is text.

    Raises:
        SaebenchError: a text is not of that form, or its evaluator is not in ``evaluators``.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        evaluator, _, name = place.strip().partition(".")
        if not (evaluator and name and equals and value.strip()):
            raise SaebenchError(f"Cannot read the option {text!r}: write it like ablation.tokens=64.")
        if evaluator not in evaluators:
            raise SaebenchError(f"The option {text!r} has no effect: the evaluator {evaluator} is not among those to run.")
        try:
            found.setdefault(evaluator, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            found.setdefault(evaluator, {})[name] = value.strip()
    return found
