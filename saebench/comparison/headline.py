"""The few metrics that tables of many autoencoders show first, and whose frontiers are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from saebench.errors import SaebenchError
from saebench.results import EvaluatorResult, Metric, Result
from saebench.results.metrics import HEADLINE

L0 = "reconstruction.l0"


class HasMetrics(Protocol):
    """A result, or any other object that holds metrics by evaluator."""

    @property
    def evaluators(self) -> dict[str, EvaluatorResult]:
        """The metrics, by evaluator."""


def trained_control(result: Result) -> str:
    """What kind of trained control (`saebench train --freeze`) a result is of; empty for one that was trained as usual."""
    return str(result.sae.training.get("control") or "")


def architecture_of(result: Result) -> str:
    """The architecture, with the kind of trained control where it is one."""
    control = trained_control(result)
    return f"{result.sae.architecture}, {control}" if control else result.sae.architecture


def find_metric(result: HasMetrics, path: str) -> Metric | None:
    """A metric by ``evaluator.name``, or None."""
    evaluator, _, name = path.partition(".")
    found = result.evaluators.get(evaluator)
    return None if found is None else found.metrics.get(name)


def metric_value(result: HasMetrics, path: str) -> float | None:
    """The value of a metric by ``evaluator.name``; None where it is absent or undefined."""
    metric = find_metric(result, path)
    return None if metric is None else metric.value


def metric_paths(results: Iterable[HasMetrics]) -> list[str]:
    """Every metric of the results by ``evaluator.name``, in the order in which they come."""
    return list(
        dict.fromkeys(
            f"{evaluator}.{name}"
            for result in results
            for evaluator, found in result.evaluators.items()
            for name in found.metrics
        )
    )


def headline(results: Sequence[HasMetrics]) -> list[str]:
    """The metrics to show first."""
    there = [path for path in metric_paths(results) if any(metric_value(result, path) is not None for result in results)]
    shown = [path for path in HEADLINE if path in there]
    named = {path.partition(".")[0] for path in shown}
    for path in there:
        evaluator = path.partition(".")[0]
        directed = any(
            (metric := find_metric(result, path)) is not None and metric.direction != "none" for result in results
        )
        if directed and evaluator not in named:
            shown.append(path)
            named.add(evaluator)
    return shown


def choose(results: Sequence[HasMetrics], wanted: Sequence[str]) -> list[str]:
    """The requested metrics, by ``evaluator.name`` or by a name that only one evaluator has; the headline by default.

    Raises:
        SaebenchError: no result has such a metric, or several evaluators have it.
    """
    if not wanted:
        return headline(results)
    there = metric_paths(results)
    found = []
    for name in wanted:
        fitting = [path for path in there if name in (path, path.partition(".")[2])]
        if len(fitting) > 1:
            raise SaebenchError(f"Several evaluators have a metric {name!r}: write {' or '.join(fitting)}.")
        if not fitting:
            raise SaebenchError(f"No result has a metric {name!r}; there are: {', '.join(there) or 'none'}.")
        found.append(fitting[0])
    return list(dict.fromkeys(found))
