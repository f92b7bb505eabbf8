"""Verdicts on metrics, as `saebench audit` found them: a data file that the package carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from saebench.errors import plain
from saebench.parsing import parse_json

Standing = Literal["sound", "use with care", "not evidence", "not known"]
MARKS: dict[str, str] = {"sound": "✓", "use with care": "†", "not evidence": "‡", "not known": "?"}
DOUBTED: tuple[Standing, ...] = ("not evidence", "use with care")


@dataclass(frozen=True)
class Verdict:
    """What an audit says of a metric.

    Attributes:
        metric: ``evaluator.name``.
        standing: ``sound``, ``use with care``, ``not evidence``, or ``not known`` where no deciding lens was run.
        lens: that decided; empty where all required ones were passed.
        sentence: why.
    """

    metric: str
    standing: Standing
    lens: str
    sentence: str

    @property
    def mark(self) -> str:
        """One character for tables."""
        return MARKS[self.standing]


@cache
def carried() -> dict[str, Verdict]:
    """Every verdict that the package carries, by ``evaluator.name``; empty where none was written yet."""
    file = resources.files("saebench.results").joinpath("verdicts.json")
    if not file.is_file():
        return {}
    found = parse_json(file.read_text(encoding="utf-8"))
    return {each["metric"]: Verdict(**each) for each in found["verdicts"]}


def mark_of(path: str) -> str:
    """What follows the name of a metric (``evaluator.name``) in tables: a mark where an audit did not find it sound."""
    found = carried().get(path)
    return f" {found.mark}" if found is not None and found.standing in DOUBTED else ""


def cautions_on(paths: Iterable[str]) -> list[str]:
    """A sentence for each metric (``evaluator.name``) that an audit did not find sound, the failed ones first."""
    found = [each for path in dict.fromkeys(paths) if (each := carried().get(path)) and each.standing in DOUBTED]
    found.sort(key=lambda verdict: DOUBTED.index(verdict.standing))
    return [f"{each.mark} {plain(each.metric)}: {each.standing}. {plain(each.sentence)}" for each in found]


def failed_of(evaluator: str) -> list[Verdict]:
    """The verdicts ``not evidence`` on an evaluator's metrics."""
    return [
        each for each in carried().values()
        if each.metric.partition(".")[0] == evaluator and each.standing == "not evidence"
    ]  # fmt: skip


def sound_metrics() -> list[str]:
    """The metrics that were found sound, by ``evaluator.name``."""
    return [each.metric for each in carried().values() if each.standing == "sound"]
