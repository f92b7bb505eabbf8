"""Reconstruction error, sparsity and dictionary statistics of the autoencoder.

Sources: Gao et al. 2024 (sections 2.1 and 4) for normalised MSE and input normalisation; Rajamanoharan et al. 2024 for
the relative reconstruction bias; Bricken et al. 2023 for densities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.geometry import decoder_similarity, encoder_decoder_cosine
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Counted, Direction
from saebench.results.statistics import Estimate, RowSums, ratio_estimate
from saebench.sae import SparseAutoencoder

_SUMS = (
    "tokens",
    "squared_error",
    "unit_error",  # squared error of activations scaled to unit norm
    "relative_error",  # squared error over the target's squared norm, for each token
    "cosine",
    "norm_ratio",
    "reconstruction_squares",
    "dot",
    "l0",
    "l1",
)
DENSITY_BIN_WIDTH = 0.25  # in decades


class Reconstruction(StreamingEvaluator):
    """Reconstruction error, sparsity and dictionary statistics over the counted tokens."""

    name = "reconstruction"
    version = 1
    description = "Reconstruction error, sparsity, latent densities and dictionary geometry"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.sums = RowSums(_SUMS)
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
        return self.result(
            [*self._error_metrics(), *self._sparsity_metrics(), *self._geometry_metrics()],
            {
                "density_histogram": self._density_histogram(),
                "l0_distribution": self._l0_distribution(),
                "normalised_mse_by_position": self._by_position(),
                "normalised_mse_by_token_frequency": self._by_frequency(),
                "by_row": {
                    "rows_per_group": self.sums.rows_per_group,
                    "variance": _rounded(self.setup.shared.moments.variance_by_row()),
                    **{name: _rounded(self.sums.column(name)) for name in _SUMS},
                },
            },
        )

    def _error_metrics(self) -> list[Metric]:
        sums, moments = self.sums, self.setup.shared.moments
        n = int(sums.total("tokens"))
        width, make = self.setup.sae.d_out, Counted(n).metric
        constant = "the activations are constant over the counted tokens"
        normalised = ratio_estimate(sums.column("squared_error"), moments.variance_by_row())
        explained = Estimate(None if normalised.value is None else 1 - normalised.value, normalised.standard_error)
        unit_error = _rescaled(sums.ratio("unit_error", "tokens"), n, moments.unit_variance)
        per_element = sums.ratio("squared_error", "tokens")
        mse = Estimate(
            None if per_element.value is None else per_element.value / width,
            None if per_element.standard_error is None else per_element.standard_error / width,
        )
        return [
            make("normalised_mse", normalised, "1", "lower", "Squared error over that of predicting the mean", constant),
            make(
                "normalised_mse_unit_norm",
                unit_error,
                "1",
                "lower",
                "The same for mean-subtracted activations of unit norm, as in Gao et al.",
                constant,
            ),
            make(
                "per_token_normalised_mse",
                sums.ratio("relative_error", "tokens"),
                "1",
                "lower",
                "Mean over tokens of squared error over squared norm",
            ),
            make("mse", mse, "activation²", "lower", "Squared error per element, in the model's units"),
            make("explained_variance", explained, "1", "higher", "1 - normalised_mse", constant),
            make("cosine_similarity", sums.ratio("cosine", "tokens"), "1", "higher", "Cosine of target and reconstruction"),
            make(
                "l2_ratio", sums.ratio("norm_ratio", "tokens"), "1", "none", "Norm of the reconstruction over the target's"
            ),
            make(
                "relative_reconstruction_bias",
                sums.ratio("reconstruction_squares", "dot"),
                "1",
                "none",
                "E|x̂|² / E[x̂·x]: below 1 the reconstruction shrinks",
                "the reconstruction is orthogonal to the target",
            ),
        ]

    def _sparsity_metrics(self) -> list[Metric]:
        n, latents = int(self.sums.total("tokens")), self.setup.sae.n_latents
        density = self.active_counts.double() / max(n, 1)
        dead = int((self.active_counts == 0).sum())

        over = Counted(n)

        def share(name: str, count: int, direction: Direction, description: str) -> Metric:
            return over.metric(name, count / latents, "share of latents", direction, description)

        l0, l1 = (self.sums.ratio(name, "tokens") for name in ("l0", "l1"))
        return [
            over.metric("l0", l0, "latents", "none", "Active latents per token"),
            over.metric("l1", l1, "activation", "none", "Sum of absolute activations per token"),
            share("dead_latents", dead, "lower", f"Latents never active on these {n:,} tokens"),
            share("fraction_seen", latents - dead, "higher", f"Latents active at least once on these {n:,} tokens"),
            share("dense_latents_10pct", int((density > 0.1).sum()), "lower", "Latents active on more than 10 % of tokens"),
            share("dense_latents_1pct", int((density > 0.01).sum()), "none", "Latents active on more than 1 % of tokens"),
        ]

    def _geometry_metrics(self) -> list[Metric]:
        sae = self.setup.sae
        similarity = cosine = Estimate(None, None)
        counted, reason = 0, f"a {type(sae).__name__} shows no encoder and decoder weights"
        if isinstance(sae, SparseAutoencoder):
            similarity, counted = decoder_similarity(sae.W_dec, self.setup.seed)
            cosine = encoder_decoder_cosine(sae)
            reason = "the dictionary reads and writes different spaces or has a single latent"
        aligned = "Mean cosine of a latent's encoder and decoder directions"
        nearest = "Mean over latents of the largest decoder cosine with another latent"
        return [
            Counted(sae.n_latents, "latents").metric("encoder_decoder_cosine", cosine, "cosine", "none", aligned, reason),
            Counted(counted, "latents").metric("max_decoder_similarity", similarity, "cosine", "none", nearest, reason),
        ]

    def _density_histogram(self) -> dict[str, Any]:
        n = int(self.sums.total("tokens"))
        seen = self.active_counts[self.active_counts > 0].double() / max(n, 1)
        lowest = -DENSITY_BIN_WIDTH * (int(torch.log10(torch.tensor(float(max(n, 10)))) / DENSITY_BIN_WIDTH) + 1)
        edges = torch.arange(lowest, DENSITY_BIN_WIDTH / 2, DENSITY_BIN_WIDTH, dtype=torch.float64)
        places = (torch.bucketize(seen.log10(), edges, right=True) - 1).clamp(0, edges.numel() - 2)
        counts = torch.bincount(places, minlength=edges.numel() - 1)
        return {
            "log10_edges": [round(edge, 4) for edge in edges.tolist()],
            "counts": counts.tolist(),
            "never_active": int((self.active_counts == 0).sum()),
        }

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
        return {"position": keep.nonzero().flatten().tolist(), "value": _rounded(values), "tokens": _rounded(counts[keep])}

    def _by_frequency(self) -> dict[str, list[Any]]:
        counts, variances = self.setup.shared.moments.variance_by("frequency")
        keep = (counts > 0).cpu()
        values = self.error_by["frequency"][keep] / variances.cpu()[keep]
        lower = [edge for edge, kept in zip(self.setup.shared.frequency_edges, keep.tolist(), strict=True) if kept]
        return {"least_occurrences": lower, "value": _rounded(values), "tokens": _rounded(counts[keep])}


def _rescaled(estimate: Estimate, denominator: float, wanted: float) -> Estimate:
    """The estimate with its denominator replaced by ``wanted``; null where that is not positive."""
    if estimate.value is None or wanted <= 1e-12 * max(denominator, 1e-300):
        return Estimate(None, None)
    scale = denominator / wanted
    error = None if estimate.standard_error is None else estimate.standard_error * scale
    return Estimate(estimate.value * scale, error)


def _rounded(values: Tensor) -> list[float | None]:
    """JSON numbers with seven digits; null where not finite."""
    return [float(f"{value:.7g}") if value == value and abs(value) != float("inf") else None for value in values.tolist()]
