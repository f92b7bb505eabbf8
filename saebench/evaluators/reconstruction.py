"""Reconstruction error, sparsity and dictionary statistics of the autoencoder.

Sources: Gao et al. 2024 (sections 2.1 and 4) for normalised MSE and input normalisation; Rajamanoharan et al. 2024 for
the relative reconstruction bias; Bricken et al. 2023 for densities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.geometry import alignment, max_similarity, sampled_latents
from saebench.evaluators.reconstruction_metrics import (
    SUMS,
    density_histogram,
    error_metrics,
    geometry_metrics,
    part_metrics,
    sparsity_metrics,
)
from saebench.results import EvaluatorResult, Metric
from saebench.results.statistics import RowSums, digits, mean_by_groups, read_columns
from saebench.sae import SparseAutoencoder


class Reconstruction(StreamingEvaluator):
    """Reconstruction error, sparsity and dictionary statistics over the counted tokens."""

    name = "reconstruction"
    version = 1
    description = "Reconstruction error, sparsity, latent densities and dictionary geometry"
    samples = ("by_row", "by_latent", "unit_variance", "density_histogram")
    row_columns = (*SUMS, "variance")
    summed = ("sums", "active_counts", "l0_histogram", "error_by")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.parts = {name: part for name, (part, _) in setup.shared.parts.items()}
        self.sums = RowSums((*SUMS, *(f"squared_error {name}" for name in self.parts)))
        self.active_counts = torch.zeros(setup.sae.n_latents, dtype=torch.int64)
        self.l0_histogram = torch.zeros(setup.sae.n_latents + 1, dtype=torch.int64)
        context = setup.corpus.tokens.shape[1]
        self.error_by = {
            "position": torch.zeros(context, dtype=torch.float64),
            "frequency": torch.zeros(len(setup.shared.frequency_edges), dtype=torch.float64),
        }

    def start_batch(self, batch: CleanBatch) -> None:
        """Start a batch."""
        self.sums.start_batch(batch.tokens.shape[0])

    def observe(self, block: TokenBlock) -> None:
        """Add a block of tokens to the sums."""
        error = block.reconstruction - block.targets
        squared_error = error.square().sum(dim=1)
        target_squares = block.targets.square().sum(dim=1)
        reconstruction_squares = block.reconstruction.square().sum(dim=1)
        dot = (block.reconstruction * block.targets).sum(dim=1)
        centred_squares = target_squares - block.targets.shape[1] * block.targets.mean(dim=1).square()
        tiny = torch.finfo(torch.float32).tiny
        norms = target_squares.sqrt()
        l0 = block.latents.l0()
        self.sums.scatter(
            block.rows,
            tokens=torch.ones_like(dot),
            squared_error=squared_error,
            unit_error=squared_error / centred_squares.clamp_min(tiny),
            relative_error=squared_error / target_squares.clamp_min(tiny),
            cosine=dot / (norms * reconstruction_squares.sqrt()).clamp_min(tiny),
            norm_ratio=reconstruction_squares.sqrt() / norms.clamp_min(tiny),
            reconstruction_squares=reconstruction_squares,
            dot=dot,
            l0=l0,
            l1=block.latents.l1(),
            **{f"squared_error {name}": _squares(block, part) for name, part in self.parts.items()},
        )
        active = block.latents.indices[block.latents.active]
        self.active_counts += torch.bincount(active, minlength=self.active_counts.numel()).cpu()
        self.l0_histogram += torch.bincount(l0, minlength=self.l0_histogram.numel()).cpu()
        bins = self.setup.shared.frequency_bin[block.token_ids.cpu()]
        self.error_by["position"].index_add_(0, block.positions.cpu(), squared_error.double().cpu())
        self.error_by["frequency"].index_add_(0, bins, squared_error.double().cpu())

    def end_batch(self) -> None:
        """Finish a batch."""
        self.sums.end_batch()

    def row_sums(self) -> Mapping[str, Tensor]:
        """The sums by row so far, with the targets' variance about their mean so far."""
        variance = self.setup.shared.moments.variance_by_row()
        return {"variance": variance, **{name: self.sums.column(name) for name in SUMS}}

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, Reconstruction)
        self.sums.merge(other.sums)
        self.active_counts += other.active_counts
        self.l0_histogram += other.l0_histogram
        for name, errors in other.error_by.items():
            self.error_by[name] += errors

    def compute(self) -> EvaluatorResult:
        """All metrics and the curves behind the report's figures."""
        moments, parts = self.setup.shared.moments, self.setup.shared.parts
        density = density_histogram(self.active_counts, int(self.sums.total("tokens")))
        latents = self._latents()
        return self.result(
            [
                *error_metrics(self.sums, moments.variance_by_row(), moments.unit_variance, self.setup.sae.d_out),
                *sparsity_metrics(self.sums, density, self.setup.sae.n_latents),
                *geometry_metrics(latents, self.setup.sae.n_latents),
                *part_metrics(self.sums, {name: moments.variance_by_row() for name, (_, moments) in parts.items()}),
            ],
            {
                "density_histogram": density,
                "l0_distribution": self._l0_distribution(),
                "normalised_mse_by_position": self._by_position(),
                "normalised_mse_by_token_frequency": self._by_frequency(),
                "unit_variance": moments.unit_variance,
                "by_row": {
                    "variance": digits(moments.variance_by_row()),
                    **{f"variance {name}": digits(each.variance_by_row()) for name, (_, each) in parts.items()},
                    **self.sums.record(),
                },
                "by_latent": latents,
            },
        )

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row and by group of latents."""
        details = found.details
        names = [name.removeprefix("variance ") for name in details["by_row"] if name.startswith("variance ")]
        sums = RowSums.read(details["by_row"], (*SUMS, *(f"squared_error {name}" for name in names)))
        parts = {name: read_columns(details["by_row"], [f"variance {name}"]).flatten() for name in names}
        (variance,) = read_columns(details["by_row"], ["variance"]).unbind(dim=1)
        return [
            *error_metrics(sums, variance, float(details["unit_variance"]), measured.d_out),
            *sparsity_metrics(sums, details["density_histogram"], measured.n_latents),
            *geometry_metrics(details["by_latent"], measured.n_latents),
            *part_metrics(sums, parts),
        ]

    def _latents(self) -> dict[str, Any]:
        """Cosines of the weights, summed over groups of latents."""
        sae, reason = self.setup.sae, f"a {type(self.setup.sae).__name__} shows no encoder and decoder weights"
        found: dict[str, Any] = dict.fromkeys(("encoder_decoder_cosine", "max_decoder_similarity"))
        if isinstance(sae, SparseAutoencoder):
            reason = "the dictionary reads and writes different spaces or has a single latent"
            if sae.n_latents > 1:
                similarity = max_similarity(sae.W_dec, sampled_latents(sae.n_latents, self.setup.seed))
                found["max_decoder_similarity"] = mean_by_groups(similarity)
            if sae.d_in == sae.d_out:
                found["encoder_decoder_cosine"] = mean_by_groups(alignment(sae))
        return {**found, "reason": reason}

    def _l0_distribution(self) -> dict[str, Any]:
        cumulative = self.l0_histogram.cumsum(0)
        total = int(cumulative[-1])
        quantiles = {
            f"p{share}": int((cumulative >= max(1, -(-total * share // 100))).nonzero()[0]) if total else None
            for share in (1, 5, 25, 50, 75, 95, 99)
        }
        used = self.l0_histogram.nonzero().flatten()
        return {"quantiles": quantiles, "least": int(used[0]) if total else None, "most": int(used[-1]) if total else None}

    def _by_position(self) -> dict[str, list[Any]]:
        counts, variances = self.setup.shared.moments.variance_by("position")
        keep = (counts > 0).cpu()
        values = self.error_by["position"][keep] / variances.cpu()[keep]
        return {"position": keep.nonzero().flatten().tolist(), "value": digits(values), "tokens": digits(counts[keep])}

    def _by_frequency(self) -> dict[str, list[Any]]:
        counts, variances = self.setup.shared.moments.variance_by("frequency")
        keep = (counts > 0).cpu()
        values = self.error_by["frequency"][keep] / variances.cpu()[keep]
        lower = [edge for edge, kept in zip(self.setup.shared.frequency_edges, keep.tolist(), strict=True) if kept]
        return {"least_occurrences": lower, "value": digits(values), "tokens": digits(counts[keep])}


def _squares(block: TokenBlock, part: slice) -> Tensor:
    """``[tokens]``: squared errors in a part of the outputs."""
    squares: Tensor = (block.reconstruction[:, part] - block.targets[:, part]).square().sum(dim=1)
    return squares
