"""Metrics from estimates."""

from __future__ import annotations

import math
from typing import Literal

from saebench.results.schema import Metric
from saebench.results.statistics import Estimate


def metric(
    name: str,
    estimate: Estimate | float | None,
    *,
    unit: str,
    direction: Literal["lower", "higher", "none"],
    n: int,
    n_unit: str = "tokens",
    version: int = 1,
    description: str = "",
    reason: str | None = None,
) -> Metric:
    """Make a metric from an estimate. A value that is None, NaN or infinite becomes null and needs its ``reason``."""
    value, error = estimate if isinstance(estimate, Estimate) else (estimate, None)
    if value is not None and not math.isfinite(value):
        value, error, reason = None, None, reason or "not a finite number"
    if value is None:
        error, reason = None, reason or "undefined: nothing was counted"
    return Metric(
        name=name,
        version=version,
        value=value,
        unit=unit,
        direction=direction,
        n=n,
        n_unit=n_unit,
        standard_error=error,
        reason=reason if value is None else None,
        description=description,
    )
