"""The metrics of ``reconstruction`` from its sums: of a pass, or of a result's details."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.results import Metric
from saebench.results.metrics import Counted, Direction
from saebench.results.statistics import Estimate, RowSums, mean_from_groups, ratio_estimate

SUMS = (
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
DENSE = {"above_10pct": 0.1, "above_1pct": 0.01}
"""Counts of dense latents in ``density_histogram``, and the densities above which they lie."""


def error_metrics(sums: RowSums, variance: Tensor, unit_variance: float, width: int) -> list[Metric]:
    """Errors of the reconstruction.

    Args:
        sums: by row, of ``SUMS``.
        variance: ``[rows]``, squared distances of the targets from their mean; ``unit_variance``: their sum for targets of
            unit norm.
        unit_variance: see ``variance``.
        width: of the targets.
    """
    n = int(sums.total("tokens"))
    make = Counted(n).metric
    constant = "the activations are constant over the counted tokens"
    normalised = ratio_estimate(sums.column("squared_error"), variance)
    explained = Estimate(None if normalised.value is None else 1 - normalised.value, normalised.standard_error)
    unit_error = _rescaled(sums.ratio("unit_error", "tokens"), n, unit_variance)
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
        make("l2_ratio", sums.ratio("norm_ratio", "tokens"), "1", "none", "Norm of the reconstruction over the target's"),
        make(
            "relative_reconstruction_bias",
            sums.ratio("reconstruction_squares", "dot"),
            "1",
            "none",
            "E|x̂|² / E[x̂·x]: below 1 the reconstruction shrinks",
            "the reconstruction is orthogonal to the target",
        ),
    ]


def part_metrics(sums: RowSums, variances: Mapping[str, Tensor]) -> list[Metric]:
    """The normalised MSE at each place, for an autoencoder that writes at several; ``normalised_mse`` is that of all.

    Args:
        sums: by row, with ``squared_error NAME`` of each place.
        variances: ``[rows]`` each, of the targets at each place.
    """
    over = Counted(int(sums.total("tokens")))
    return [
        over.metric(
            f"normalised_mse {name}",
            ratio_estimate(sums.column(f"squared_error {name}"), variance),
            "1",
            "lower",
            f"The same at {name} alone; normalised_mse is over all {len(variances)} places together",
            "the activations are constant over the counted tokens",
        )
        for name, variance in variances.items()
    ]


def sparsity_metrics(sums: RowSums, density: Mapping[str, Any], latents: int) -> list[Metric]:
    """L0, L1 and shares of dead and dense latents.

    Args:
        sums: by row, of ``SUMS``.
        density: as ``density_histogram`` makes it.
        latents: of the autoencoder.

    Raises:
        ValueError: the histogram's counts contradict each other.
    """
    n = int(sums.total("tokens"))
    dead, over = density["never_active"], Counted(n)
    _check_density(density, latents)

    def share(name: str, count: int, direction: Direction, description: str) -> Metric:
        return over.metric(name, count / latents, "share of latents", direction, description)

    l0, l1 = (sums.ratio(name, "tokens") for name in ("l0", "l1"))
    return [
        over.metric("l0", l0, "latents", "none", "Active latents per token"),
        over.metric("l1", l1, "activation", "none", "Sum of absolute activations per token"),
        share("dead_latents", dead, "lower", f"Latents never active on these {n:,} tokens"),
        share("fraction_seen", latents - dead, "higher", f"Latents active at least once on these {n:,} tokens"),
        share("dense_latents_10pct", density["above_10pct"], "lower", "Latents active on more than 10 % of tokens"),
        share("dense_latents_1pct", density["above_1pct"], "none", "Latents active on more than 1 % of tokens"),
    ]


def geometry_metrics(latents: Mapping[str, Any], n_latents: int) -> list[Metric]:
    """Cosines of the weights.

    Args:
        latents: sums over groups of latents by metric, or null, with a ``reason``.
        n_latents: of the autoencoder.

    Raises:
        ValueError: the sums are not as ``mean_by_groups`` makes them.
    """
    reason = str(latents.get("reason") or "it is undefined")
    aligned, _ = _mean(latents["encoder_decoder_cosine"])
    nearest, counted = _mean(latents["max_decoder_similarity"], n_latents)
    words = "Mean cosine of a latent's encoder and decoder directions"
    return [
        Counted(n_latents, "latents").metric("encoder_decoder_cosine", aligned, "cosine", "none", words, reason),
        Counted(counted, "latents").metric(
            "max_decoder_similarity", nearest, "cosine", "none",
            "Mean over latents of the largest decoder cosine with another latent", reason,
        ),
    ]  # fmt: skip


def density_histogram(active_counts: Tensor, tokens: int) -> dict[str, Any]:
    """Densities of latents (``active_counts``: ``[n]``) on a logarithmic scale, and counts of dead and dense ones."""
    seen = active_counts[active_counts > 0].double() / max(tokens, 1)
    lowest = -DENSITY_BIN_WIDTH * (int(torch.log10(torch.tensor(float(max(tokens, 10)))) / DENSITY_BIN_WIDTH) + 1)
    edges = torch.arange(lowest, DENSITY_BIN_WIDTH / 2, DENSITY_BIN_WIDTH, dtype=torch.float64)
    places = (torch.bucketize(seen.log10(), edges, right=True) - 1).clamp(0, edges.numel() - 2)
    counts = torch.bincount(places, minlength=edges.numel() - 1)
    return {
        "log10_edges": [round(edge, 4) for edge in edges.tolist()],
        "counts": counts.tolist(),
        "never_active": int((active_counts == 0).sum()),
        **{name: int((seen > least).sum()) for name, least in DENSE.items()},
    }


def _mean(record: Any, population: int | None = None) -> tuple[Estimate, int]:
    if record is None:
        return Estimate(None, None), 0
    estimate, count = mean_from_groups(record)
    return (Estimate(estimate.value, 0.0), count) if count == population else (estimate, count)


def _check_density(density: Mapping[str, Any], latents: int) -> None:
    counts: Sequence[Any] = [density["never_active"], *density["counts"], *(density[name] for name in DENSE)]
    if not all(type(count) is int and 0 <= count <= latents for count in counts):
        raise ValueError("counts of latents by density are whole numbers from 0")
    if density["never_active"] + sum(density["counts"]) != latents:
        raise ValueError(f"counts of latents by density do not add up to {latents}")
    for name, least in DENSE.items():
        bins = list(zip(density["log10_edges"], density["counts"], strict=False))
        at = [count for edge, count in bins if edge > math.log10(least * 0.999)]
        if not sum(at[1:]) <= density[name] <= sum(at):
            raise ValueError(f"the count of latents {name.replace('_', ' ')} contradicts those by density")


def _rescaled(estimate: Estimate, denominator: float, wanted: float) -> Estimate:
    """The estimate with its denominator replaced by ``wanted``; null where that is not positive."""
    if estimate.value is None or wanted <= 1e-12 * max(denominator, 1e-300):
        return Estimate(None, None)
    scale = denominator / wanted
    error = None if estimate.standard_error is None else estimate.standard_error * scale
    return Estimate(estimate.value * scale, error)
