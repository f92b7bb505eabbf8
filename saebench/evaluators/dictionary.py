"""Properties of a dictionary's weights: neighbours, rank, and agreement of encoder and decoder.

``saebench.evaluators.dictionary_pair`` compares two dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import Evaluator, Measured
from saebench.evaluators.geometry import (
    alignment,
    direction_chunks,
    effective_rank,
    matched_random_chunks,
    nearest,
    sampled_latents,
    singular_values,
)
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, digits, mean_by_groups, mean_estimate, mean_from_groups, read_columns
from saebench.sae import SparseAutoencoder

SIMILAR = 0.7
"""Cosine above which two latents count as the same feature (Leask et al. 2025)."""

DUPLICATE = 0.9
BINS = 40
_WORDS = {
    "neighbour": "Mean largest decoder cosine with another latent",
    "random": "The same with a random dictionary of that size and second moments",
    "aligned": "Mean cosine of a latent's encoder and decoder directions",
    "as_near": "Latents to which such a random dictionary comes as near as their nearest neighbour",
}


class Dictionary(Evaluator):
    """Geometry of the decoder and the encoder, without data."""

    name = "dictionary"
    version = 1
    description = "Geometry of the weights: neighbouring directions, effective rank, encoder against decoder"
    defaults: ClassVar[dict[str, int]] = {}
    needs_weights = True
    of_weights_alone = True
    samples = ("by_latent", "singular_values")

    def compute(self) -> EvaluatorResult:
        """All metrics and the histograms behind them."""
        assert isinstance(self.setup.sae, SparseAutoencoder)
        metrics, details = geometry(self.setup.sae, self.setup.seed)
        return self.result(metrics, details, {"similar": SIMILAR, "duplicate": DUPLICATE})

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums over groups of latents and the singular values."""
        return _metrics(found.details, measured.n_latents, measured.d_out)


def geometry(sae: SparseAutoencoder, seed: int) -> tuple[list[Metric], dict[str, Any]]:
    """``(metrics, details)`` of one dictionary. Very large ones are evaluated on a seeded sample of their latents."""
    details = _details(sae, seed)
    return _metrics(details, sae.n_latents, sae.d_out), details


@torch.no_grad()
def _details(sae: SparseAutoencoder, seed: int) -> dict[str, Any]:
    chosen = sampled_latents(sae.n_latents, seed)
    neighbour, number = nearest(sae.W_dec[chosen], direction_chunks(sae.W_dec), own=chosen)
    random, _ = nearest(sae.W_dec[chosen], matched_random_chunks(sae.W_dec, sae.n_latents, seed))
    values: dict[str, Tensor] = {}
    details: dict[str, Any] = {"singular_values": digits(singular_values(sae.W_dec))}
    if sae.n_latents > 1:
        values = {
            "max_decoder_similarity": neighbour,
            "random_max_similarity": random,
            "random_match_share": random >= neighbour,
            "similar_share": neighbour >= SIMILAR,
            "duplicate_share": neighbour >= DUPLICATE,
        }
        order = neighbour.argsort(descending=True)[:20]
        pairs = zip(chosen[order].tolist(), number[order].tolist(), neighbour[order].tolist(), strict=True)
        details["nearest_pairs"] = [[left, right, round(cosine, 6)] for left, right, cosine in pairs]
    details["neighbour_histogram"] = _histogram(values.get("max_decoder_similarity", neighbour[:0]))
    if sae.d_in == sae.d_out:
        values["encoder_decoder_cosine"] = alignment(sae).cpu()
        details["alignment_histogram"] = _histogram(values["encoder_decoder_cosine"])
    return {**details, "by_latent": {name: mean_by_groups(each.double()) for name, each in values.items()}}


def _metrics(details: Mapping[str, Any], n_latents: int, d_out: int) -> list[Metric]:
    """All metrics from the details.

    Raises:
        ValueError: the details are not as ``geometry`` makes them.
    """
    rank = effective_rank(read_columns(details, ["singular_values"]).flatten())
    alone = "a single latent has no neighbours"
    apart = "the dictionary reads and writes different spaces"

    def mean(
        name: str, description: str, unit: str = "share of latents", direction: Any = "none", reason: str = alone
    ) -> Metric:
        record = details["by_latent"].get(name)
        estimate, n = (Estimate(None, None), 0) if record is None else mean_from_groups(record)
        return metric(
            name, estimate, unit=unit, direction=direction, n=n, n_unit="latents", description=description, reason=reason
        )

    return [
        mean("max_decoder_similarity", _WORDS["neighbour"], "cosine"),
        mean("random_max_similarity", _WORDS["random"], "cosine"),
        mean("random_match_share", _WORDS["as_near"]),
        mean("similar_share", f"Latents with a neighbour at {SIMILAR} or more"),
        mean("duplicate_share", f"Latents with a neighbour at {DUPLICATE} or more", direction="lower"),
        metric(
            "effective_rank",
            rank,
            unit="dimensions",
            direction="none",
            n=n_latents,
            n_unit="latents",
            description=f"Exponential of the entropy of the decoder's singular values, of {min(n_latents, d_out)}",
            reason="all decoder directions are 0",
        ),
        mean("encoder_decoder_cosine", _WORDS["aligned"], "cosine", reason=apart),
    ]


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
