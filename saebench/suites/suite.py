"""A suite: what is evaluated, on how much, with which controls; all in ``suites.toml``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from saebench.errors import SaebenchError
from saebench.parsing import parse_toml

SUITES = ("quick", "standard", "full", "saebench")
PINNED = ("evaluators", "controls", "tokens", "context", "seed", "dtype", "options")
"""The settings of an evaluation that a suite decides."""


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: as ``--suite`` takes it; ``version``: raised by every change of its settings.
        settings: those of ``PINNED``, as ``EvaluationSettings`` takes them.
    """

    name: str
    version: int
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """As results record it, with a hash of the settings: results of different ones are of different benchmarks."""
        content = json.dumps(dict(self.settings), sort_keys=True)
        return f"{self.name} {self.version} ({hashlib.sha256(content.encode()).hexdigest()[:12]})"

    def apply(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of an evaluation with this suite: ``given`` ones, and those that the suite pins.

        Raises:
            SaebenchError: a given setting is one that the suite pins.
        """
        pinned = [name for name in PINNED if given.get(name) not in (None, {}, [], ())]
        if pinned:
            raise SaebenchError(
                f"The suite {self.name} pins {', '.join(PINNED)}: omit {', '.join(pinned)}, or evaluate without --suite."
            )
        return {**given, **self.settings, "suite": self.label}


def read_suite(name: str) -> Suite:
    """A suite by name.

    Raises:
        SaebenchError: there is none of that name.
    """
    if name not in SUITES:
        raise SaebenchError(f"There is no suite {name!r}; there are: {', '.join(SUITES)}.")
    content = parse_toml(files("saebench.suites").joinpath("suites.toml").read_text(encoding="utf-8"))
    settings = dict(content[name])
    version = settings.pop("version")
    return Suite(name, version, {"options": {}} | settings)
