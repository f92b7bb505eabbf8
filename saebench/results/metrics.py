"""Metrics from estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from saebench.results.schema import Metric
from saebench.results.statistics import Estimate

Direction = Literal["lower", "higher", "none"]
HEADLINE = (
    "reconstruction.normalised_mse",
    "downstream.ce_difference",
    "downstream.kl_divergence",
    "probe_loss.probe_loss",
    "probe_loss.probe_loss_held_out",
    "explainability.f1",
    "ablation.sparsity",
    "ablation.sparsity_excess",
    "sparse_probing.sae_top_1_test_accuracy",
    "scr.scr_metric_threshold_20",
    "tpp.tpp_threshold_20_total_metric",
)
"""In this order, where results have them. Other evaluators are shown by their first metric that has a direction."""


def metric(
    name: str,
    estimate: Estimate | float | None,
    *,
    unit: str,
    direction: Direction,
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
        name=name, version=version, value=value, unit=unit, direction=direction, n=n, n_unit=n_unit, standard_error=error,
        reason=reason if value is None else None, description=description,
    )  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """Makes the metrics of a table that have the same number of observations.

    Attributes:
        n: that number; ``n_unit``: what is counted.
        n_unit: see ``n``.
    """

    n: int
    n_unit: str = "tokens"

    def metric(
        self,
        name: str,
        estimate: Estimate | float | None,
        unit: str,
        direction: Direction,
        description: str,
        reason: str | None = None,
    ) -> Metric:
        """A metric, a row of the table."""
        return metric(
            name, estimate, unit=unit, direction=direction, n=self.n, n_unit=self.n_unit, description=description,
            reason=reason,
        )  # fmt: skip
