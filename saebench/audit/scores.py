"""The tidy table that lenses read: one row for each value of a metric of one autoencoder on one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from saebench.results import EvaluatorResult


@dataclass(frozen=True)
class Subject:
    """An autoencoder that is evaluated, and what is known of it.

    Attributes:
        sae: its name; ``role``: ``damaged``, ``repeat``, ``trained``, ``grid`` or ``control``.
        damage, dose: of a damaged one; ``sample``: number of the text.
        recovery: its true F1 of features; ``normalised_mse``, ``l0``, ``n``: of it.
        architecture, seed, tokens: of its training; ``control``: its kind where it is one.
        cell: trained ones of one cell share width and L0.
    """

    sae: str
    role: str
    damage: str = ""
    dose: float = 0.0
    sample: int = 0
    recovery: float | None = None
    normalised_mse: float | None = None
    l0: float | None = None
    n: int = 0
    architecture: str = ""
    seed: int = 0
    tokens: int = 0
    control: str = ""
    cell: str = ""


@dataclass(frozen=True)
class Score:
    """A metric's value of a subject.

    Attributes:
        subject: the autoencoder; ``metric``: ``evaluator.name``.
        value: as measured; ``good``: the same with the sign for which more is better.
        error: stated standard error, where there is one.
        seconds: that the evaluator took.
    """

    subject: Subject
    metric: str
    value: float
    good: float
    error: float | None
    seconds: float = 0.0


def scores_of(subject: Subject, evaluators: Iterable[EvaluatorResult]) -> list[Score]:
    """The scores of a result: every defined metric that has a direction."""
    found = []
    for evaluator in evaluators:
        for name, metric in evaluator.metrics.items():
            if metric.value is not None and metric.direction != "none":
                good = metric.value if metric.direction == "higher" else -metric.value
                path = f"{evaluator.name}.{name}"
                found.append(Score(subject, path, metric.value, good, metric.standard_error, evaluator.duration_seconds))
    return found


def with_figures(subject: Subject, evaluators: Iterable[EvaluatorResult]) -> Subject:
    """The subject with the normalised MSE and L0 that were measured."""
    metrics = {f"{each.name}.{name}": metric.value for each in evaluators for name, metric in each.metrics.items()}
    return replace(subject, normalised_mse=metrics.get("reconstruction.normalised_mse"), l0=metrics.get("reconstruction.l0"))


def by_metric(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Scores of each metric, in the order in which metrics come."""
    return grouped(scores, lambda score: score.metric)


def grouped(scores: Iterable[Score], key: Callable[[Score], str]) -> dict[str, list[Score]]:
    """Scores by any key."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(key(score), []).append(score)
    return found


def of_role(scores: Sequence[Score], *roles: str) -> list[Score]:
    """Scores of subjects with one of these roles."""
    return [score for score in scores if score.subject.role in roles]
