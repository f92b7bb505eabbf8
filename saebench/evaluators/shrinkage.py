"""Whether the encoder's values are optimal for the latents that it selected, or shrunk.

Source: Gao et al. 2024, section 5.1. The values of each token's active latents are refined by non-negative least squares
on the same support and compared with the encoder's: values of a ReLU autoencoder trained with an L1 penalty increase.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.codes.refinement import refine
from saebench.evaluators.splicing.rows import RowLosses, SplicedRows
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, RowSums, digits, ratio_estimate, read_columns
from saebench.sae import SparseAutoencoder

_SUMS = ("tokens", "error", "refined_error", "active", "values", "refined_values", "ratios", "zeroed", "converged")
_VARIANTS = ("before", "after")
LOWEST, HIGHEST = -20, 20
"""Magnitudes are grouped by powers of two between these; values outside are counted in the outermost groups."""


class Shrinkage(StreamingEvaluator):
    """Refined against encoded values, and the gain in reconstruction and loss."""

    name = "shrinkage"
    version = 1
    description = "Values of active latents against their refinement on the same support, and what that gains"
    defaults: ClassVar[dict[str, int]] = {"downstream_rows": 16}
    """Rows of text on which the losses before and after are measured."""
    needs_weights = True
    samples = ("by_row", "by_sampled_row")
    summed = ("sums", "spliced", "by_magnitude")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.sums = RowSums(_SUMS)
        self.spliced = SplicedRows(setup, self.options["downstream_rows"], _VARIANTS)
        bins = HIGHEST - LOWEST + 1
        self.by_magnitude = {
            name: torch.zeros(bins, dtype=torch.float64) for name in ("active", "values", "refined", "ratios")
        }

    def start_batch(self, batch: CleanBatch) -> None:
        """Start a batch."""
        self.sums.start_batch(batch.tokens.shape[0])
        self.spliced.start_batch(batch)

    def observe(self, block: TokenBlock) -> None:
        """Refine a block of tokens and add it to the sums."""
        sae = self.setup.sae
        assert isinstance(sae, SparseAutoencoder)
        found = refine(sae, block.latents, block.targets - block.reconstruction)
        reconstruction = sae.decode(found.latents, block.inputs).float()
        active = block.latents.active
        old, new = block.latents.values.abs().double(), found.latents.values.abs().double()
        ratios = torch.where(active, new / old.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        self.sums.scatter(
            block.rows,
            tokens=torch.ones_like(found.converged),
            error=(block.reconstruction - block.targets).square().sum(dim=1),
            refined_error=(reconstruction - block.targets).square().sum(dim=1),
            active=active.sum(dim=1),
            values=old.sum(dim=1),
            refined_values=new.sum(dim=1),
            ratios=ratios.sum(dim=1),
            zeroed=(active & (new == 0)).sum(dim=1),
            converged=found.converged,
        )
        group = (old[active].log2().floor().clamp(LOWEST, HIGHEST) - LOWEST).long().cpu()
        self.by_magnitude["active"] += torch.bincount(group, minlength=HIGHEST - LOWEST + 1)
        for name, each in (("values", old), ("refined", new), ("ratios", ratios)):
            self.by_magnitude[name].index_add_(0, group, each[active].cpu())
        self.spliced.observe(block, "before", block.reconstruction)
        self.spliced.observe(block, "after", reconstruction)

    def end_batch(self) -> None:
        """Finish a batch, and measure the losses of its sampled rows."""
        self.sums.end_batch()
        self.spliced.end_batch()

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, Shrinkage)
        self.sums.merge(other.sums)
        self.spliced.merge(other.spliced)
        for name, values in other.by_magnitude.items():
            self.by_magnitude[name] += values

    def compute(self) -> EvaluatorResult:
        """All metrics, and the ratios by magnitude."""
        variance, losses = self.setup.shared.moments.variance_by_row(), self.spliced.losses()
        return self.result(
            metrics_of(self.sums, variance, losses),
            {
                "by_magnitude": self._by_magnitude(),
                "converged_share": self.sums.ratio("converged", "tokens").value,
                "by_row": {"variance": digits(variance), **self.sums.record()},
                "by_sampled_row": losses.record(),
            },
            dict(self.options),
        )

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row."""
        by_row = found.details["by_row"]
        (variance,) = read_columns(by_row, ["variance"]).unbind(dim=1)
        return metrics_of(RowSums.read(by_row, _SUMS), variance, RowLosses.read(found.details["by_sampled_row"], _VARIANTS))

    def _by_magnitude(self) -> dict[str, list[float]]:
        counts = self.by_magnitude["active"]
        keep = counts > 0
        powers = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64)
        return {
            "least_value": digits(2.0 ** powers[keep]),
            "active": counts[keep].long().tolist(),
            "value_ratio": digits(self.by_magnitude["refined"][keep] / self.by_magnitude["values"][keep]),
            "mean_value_ratio": digits(self.by_magnitude["ratios"][keep] / counts[keep]),
        }


def metrics_of(sums: RowSums, variance: Tensor, losses: RowLosses) -> list[Metric]:
    """All metrics from sums by row, the targets' variance by row (``[rows]``), and losses by sampled row."""
    return [*_ratios(sums), *_errors(sums, variance), *_losses(losses)]


def _ratios(sums: RowSums) -> list[Metric]:
    n = int(sums.total("active"))

    def make(name: str, estimate: Estimate, direction: Any, description: str) -> Metric:
        return metric(
            name, estimate, unit="1", direction=direction, n=n, n_unit="active latents", description=description,
            reason="no latent was active",
        )  # fmt: skip

    return [
        make(
            "value_ratio",
            sums.ratio("refined_values", "values"),
            "none",
            "Sum of refined values over sum of encoded ones: above 1 the encoder shrinks",
        ),
        make("mean_value_ratio", sums.ratio("ratios", "active"), "none", "Mean over active latents of that ratio"),
        make("zeroed", sums.ratio("zeroed", "active"), "lower", "Active latents whose refined value is 0"),
    ]


def _errors(sums: RowSums, variance: Tensor) -> list[Metric]:
    n = int(sums.total("tokens"))
    words = {
        "normalised_mse_before": ("error", "with the encoder's values"),
        "normalised_mse_after": ("refined_error", "with refined values"),
    }
    return [
        metric(
            name,
            ratio_estimate(sums.column(of), variance),
            unit="1",
            direction="lower",
            n=n,
            description=f"Squared error over that of predicting the mean, {text}",
            reason="the activations are constant over the counted tokens",
        )
        for name, (of, text) in words.items()
    ]


def _losses(losses: RowLosses) -> list[Metric]:
    metrics = []
    for variant, text in (("before", "with the encoder's values"), ("after", "with refined values")):
        estimates = {
            "ce_difference": (
                losses.ce_difference({variant: 1.0}),
                "predictions",
                "Spliced minus clean cross-entropy",
            ),
            "kl_divergence": (losses.kl_divergence(variant), "positions", "KL(clean || spliced)"),
        }
        for name, (estimate, counted, description) in estimates.items():
            metrics.append(
                metric(
                    f"{name}_{variant}",
                    estimate,
                    unit="nats",
                    direction="lower",
                    n=losses.count(counted),
                    description=f"{description}, {text}",
                    reason="no prediction counts in the sampled rows",
                )
            )
    return metrics
