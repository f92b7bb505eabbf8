"""The thresholds of the lenses, as committed in ``thresholds.toml``, and what metrics are meant to see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from saebench.parsing import parse_toml


@dataclass(frozen=True)
class Thresholds:
    """What each lens asks, and the rule from lenses to verdicts.

    Attributes:
        of: numbers by lens and name.
        required, fatal: lenses of the rule.
        sees: damages by ``evaluator.metric`` or evaluator; ``sees.toml`` adds those of SAEBench's suite.
        sha256: of the file of thresholds; ``sees_sha256``: of ``sees.toml``.
    """

    of: Mapping[str, Mapping[str, float]]
    required: tuple[str, ...]
    fatal: tuple[str, ...]
    sees: Mapping[str, tuple[str, ...]]
    sha256: str
    sees_sha256: str

    def meant_to_see(self, metric: str) -> tuple[str, ...]:
        """The damages that a metric, ``evaluator.name``, is meant to see; its own entry comes before its evaluator's."""
        return self.sees.get(metric, self.sees.get(metric.partition(".")[0], ()))


def read_thresholds() -> Thresholds:
    """The package's thresholds."""
    folder = resources.files("saebench.audit")
    data, more = folder.joinpath("thresholds.toml").read_bytes(), folder.joinpath("sees.toml").read_bytes()
    found: dict[str, Any] = parse_toml(data.decode())
    rule, sees = found.pop("verdict"), found.pop("sees") | parse_toml(more.decode())["sees"]
    found.pop("version")
    return Thresholds(
        found, tuple(rule["required"]), tuple(rule["fatal"]), {name: tuple(kinds) for name, kinds in sees.items()},
        hashlib.sha256(data).hexdigest(), hashlib.sha256(more).hexdigest(),
    )  # fmt: skip
