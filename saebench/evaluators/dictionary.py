"""Properties of a dictionary's weights: neighbours, rank, and agreement of encoder and decoder.

``saebench.evaluators.dictionary_pair`` compares two dictionaries.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import Evaluator
from saebench.evaluators.geometry import (
    alignment,
    direction_chunks,
    effective_rank,
    matched_random_chunks,
    nearest,
    sampled_latents,
)
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import mean_estimate
from saebench.sae import SparseAutoencoder

SIMILAR = 0.7
"""Cosine above which two latents count as the same feature (Leask et al. 2025)."""

DUPLICATE = 0.9
BINS = 40
_WORDS = {
    "neighbour": "Mean largest decoder cosine with another latent",
    "random": "The same with a random dictionary of that size and second moments",
    "as_near": "Latents to which such a random dictionary comes as near as their nearest neighbour",
}


class Dictionary(Evaluator):
    """Geometry of the decoder and the encoder, without data."""

    name = "dictionary"
    version = 1
    description = "Geometry of the weights: neighbouring directions, effective rank, encoder against decoder"
    defaults: ClassVar[dict[str, int]] = {}
    needs_weights = True

    def compute(self) -> EvaluatorResult:
        """All metrics and the histograms behind them."""
        assert isinstance(self.setup.sae, SparseAutoencoder)
        metrics, details = geometry(self.setup.sae, self.setup.seed)
        return self.result(metrics, details, {"similar": SIMILAR, "duplicate": DUPLICATE})


@torch.no_grad()
def geometry(sae: SparseAutoencoder, seed: int) -> tuple[list[Metric], dict[str, Any]]:
    """``(metrics, details)`` of one dictionary. Very large ones are evaluated on a seeded sample of their latents."""
    chosen = sampled_latents(sae.n_latents, seed)
    neighbour, number = nearest(sae.W_dec[chosen], direction_chunks(sae.W_dec), own=chosen)
    random, _ = nearest(sae.W_dec[chosen], matched_random_chunks(sae.W_dec, sae.n_latents, seed))
    alone = "a single latent has no neighbours" if sae.n_latents < 2 else None
    if alone:
        neighbour = random = neighbour[:0]
    similar, duplicate = (neighbour >= SIMILAR).float(), (neighbour >= DUPLICATE).float()
    as_near = (random >= neighbour).float()
    metrics = [
        latent_metric("max_decoder_similarity", neighbour, _WORDS["neighbour"], "cosine", alone),
        latent_metric("random_max_similarity", random, _WORDS["random"], "cosine", alone),
        latent_metric("random_match_share", as_near, _WORDS["as_near"], reason=alone),
        latent_metric("similar_share", similar, f"Latents with a neighbour at {SIMILAR} or more", reason=alone),
        latent_metric(
            "duplicate_share", duplicate, f"Latents with a neighbour at {DUPLICATE} or more", reason=alone, direction="lower"
        ),
        metric(
            "effective_rank",
            effective_rank(sae.W_dec),
            unit="dimensions",
            direction="none",
            n=sae.n_latents,
            n_unit="latents",
            description=f"Exponential of the entropy of the decoder's singular values, of {min(sae.n_latents, sae.d_out)}",
            reason="all decoder directions are 0",
        ),
    ]
    details: dict[str, Any] = {"neighbour_histogram": _histogram(neighbour)}
    if not alone:
        order = neighbour.argsort(descending=True)[:20]
        pairs = zip(chosen[order].tolist(), number[order].tolist(), neighbour[order].tolist(), strict=True)
        details["nearest_pairs"] = [[left, right, round(cosine, 6)] for left, right, cosine in pairs]
    aligned, reason = torch.zeros(0), "the dictionary reads and writes different spaces"
    if sae.d_in == sae.d_out:
        aligned = alignment(sae).cpu()
        details["alignment_histogram"] = _histogram(aligned)
    words = "Mean cosine of a latent's encoder and decoder directions"
    metrics.append(latent_metric("encoder_decoder_cosine", aligned, words, "cosine", reason))
    return metrics, details


def latent_metric(
    name: str,
    values: Tensor,
    description: str,
    unit: str = "share of latents",
    reason: str | None = None,
    direction: Any = "none",
) -> Metric:
    """The mean of ``values`` (``[latents]``) with its standard error, latents being the sample."""
    return metric(
        name, mean_estimate(values), unit=unit, direction=direction, n=values.numel(), n_unit="latents",
        description=description, reason=reason,
    )  # fmt: skip


def _histogram(cosines: Tensor) -> dict[str, list[Any]]:
    edges = torch.linspace(-1, 1, BINS + 1)
    places = (torch.bucketize(cosines, edges, right=True) - 1).clamp(0, BINS - 1)
    return {"edges": [round(edge, 4) for edge in edges.tolist()], "counts": torch.bincount(places, minlength=BINS).tolist()}
