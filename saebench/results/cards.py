"""Results as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saebench.results.schema import Result

if TYPE_CHECKING:
    import pandas


def to_frame(results: Sequence[Result]) -> pandas.DataFrame:
    """Results as one table, a row for each metric of each autoencoder."""
    import pandas

    columns = ["sae", "evaluator", "metric", "value", "standard_error", "unit", "direction", "n", "n_unit", "reason"]
    rows = [
        (
            result.sae.origin,
            evaluator,
            metric.name,
            metric.value,
            metric.standard_error,
            metric.unit,
            metric.direction,
            metric.n,
            metric.n_unit,
            metric.reason,
        )
        for result in results
        for evaluator, found in result.evaluators.items()
        for metric in found.metrics.values()
    ]
    return pandas.DataFrame(rows, columns=columns)
