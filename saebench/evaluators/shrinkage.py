"""Whether the encoder's values are optimal for the latents that it selected, or shrunk.

Source: Gao et al. 2024, section 5.1. The values of each token's active latents are refined by non-negative least squares
on the same support and compared with the encoder's: values of a ReLU autoencoder trained with an L1 penalty increase.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.codes.refinement import refine
from saebench.evaluators.splicing.rows import SplicedRows
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, RowSums, ratio_estimate
from saebench.sae import SparseAutoencoder

_SUMS = ("tokens", "error", "refined_error", "active", "values", "refined_values", "ratios", "zeroed", "converged")
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

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.sums = RowSums(_SUMS)
        self.spliced = SplicedRows(setup, self.options["downstream_rows"], ("before", "after"))
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
        return self.result(
            [*self._ratios(), *self._errors(), *self._losses()],
            {"by_magnitude": self._by_magnitude(), "converged_share": self.sums.ratio("converged", "tokens").value},
            dict(self.options),
        )

    def _ratios(self) -> list[Metric]:
        n = int(self.sums.total("active"))

        def make(name: str, estimate: Estimate, direction: Any, description: str) -> Metric:
            return metric(
                name, estimate, unit="1", direction=direction, n=n, n_unit="active latents", description=description,
                reason="no latent was active",
            )  # fmt: skip

        return [
            make(
                "value_ratio",
                self.sums.ratio("refined_values", "values"),
                "none",
                "Sum of refined values over sum of encoded ones: above 1 the encoder shrinks",
            ),
            make("mean_value_ratio", self.sums.ratio("ratios", "active"), "none", "Mean over active latents of that ratio"),
            make("zeroed", self.sums.ratio("zeroed", "active"), "lower", "Active latents whose refined value is 0"),
        ]

    def _errors(self) -> list[Metric]:
        variance, n = self.setup.shared.moments.variance_by_row(), int(self.sums.total("tokens"))
        words = {
            "normalised_mse_before": ("error", "with the encoder's values"),
            "normalised_mse_after": ("refined_error", "with refined values"),
        }
        return [
            metric(
                name,
                ratio_estimate(self.sums.column(of), variance),
                unit="1",
                direction="lower",
                n=n,
                description=f"Squared error over that of predicting the mean, {text}",
                reason="the activations are constant over the counted tokens",
            )
            for name, (of, text) in words.items()
        ]

    def _losses(self) -> list[Metric]:
        metrics = []
        for variant, text in (("before", "with the encoder's values"), ("after", "with refined values")):
            estimates = {
                "ce_difference": (
                    self.spliced.ce_difference({variant: 1.0}),
                    "predictions",
                    "Spliced minus clean cross-entropy",
                ),
                "kl_divergence": (self.spliced.kl_divergence(variant), "positions", "KL(clean || spliced)"),
            }
            for name, (estimate, counted, description) in estimates.items():
                metrics.append(
                    metric(
                        f"{name}_{variant}",
                        estimate,
                        unit="nats",
                        direction="lower",
                        n=self.spliced.count(counted),
                        description=f"{description}, {text}",
                        reason="no prediction counts in the sampled rows",
                    )
                )
        return metrics

    def _by_magnitude(self) -> dict[str, list[float]]:
        counts = self.by_magnitude["active"]
        keep = counts > 0
        powers = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64)
        return {
            "least_value": _digits(2.0 ** powers[keep]),
            "active": counts[keep].long().tolist(),
            "value_ratio": _digits(self.by_magnitude["refined"][keep] / self.by_magnitude["values"][keep]),
            "mean_value_ratio": _digits(self.by_magnitude["ratios"][keep] / counts[keep]),
        }


def _digits(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]
