"""True recovery: how much of the planted dictionary an autoencoder has found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.sae import SparseAutoencoder

LEAST_COSINE, LEAST_CORRELATION = 0.9, 0.5


@dataclass(frozen=True)
class Recovery:
    """The recovery of the planted features.

    Attributes:
        f1: of matched features: 2 PR / (P + R), from the shares of live latents and of active features that are matched. A
            feature and a latent match one to one where the cosine of their directions is above 0.9 and their activations
            correlate above 0.5.
        recall, precision: these shares.
        features_cosine: mean over features of the largest cosine with a live latent; ``latents_cosine``: the reverse.
        variance: share of the variance of the features' part of the activations that is explained.
    """

    f1: float
    recall: float
    precision: float
    features_cosine: float
    latents_cosine: float
    variance: float


@torch.no_grad()
def measure(sae: SparseAutoencoder, directions: Tensor, activations: Tensor, code: Tensor) -> Recovery:
    """The recovery of features with unit ``directions`` ``[F, d]`` on a sample of any synthetic data.

    Args:
        sae: the autoencoder; ``directions``: the true ones.
        activations: ``[tokens, d]``; ``code``: their true code, ``[tokens, F]``.
    """
    latents = sae.encode(activations)
    dense = latents.to_dense()
    live, there = (dense != 0).any(dim=0), (code != 0).any(dim=0)
    signal = code @ directions
    rebuilt = sae.decode(latents, activations) - sae.b_dec
    left = (rebuilt - rebuilt.mean(dim=0) - signal + signal.mean(dim=0)).square().sum()
    variance = 1 - float(left / (signal - signal.mean(dim=0)).square().sum())
    if not bool(live.any()):
        return Recovery(0.0, 0.0, 0.0, 0.0, 0.0, variance)
    cosine = directions[there] @ F.normalize(sae.W_dec[live], dim=1).T
    fits = (cosine > LEAST_COSINE) & (_correlation(code[:, there], dense[:, live]) > LEAST_CORRELATION)
    matched = _matching(cosine, fits)
    recall, precision = matched / int(there.sum()), matched / int(live.sum())
    return Recovery(
        f1=2 * matched / (int(there.sum()) + int(live.sum())),
        recall=recall,
        precision=precision,
        features_cosine=float(cosine.max(dim=1).values.mean()),
        latents_cosine=float(cosine.max(dim=0).values.mean()),
        variance=variance,
    )


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """``[F, n]``: of the columns of two ``[tokens, ...]`` tensors."""
    a, b = (each - each.mean(dim=0) for each in (first.double(), second.double()))
    found: Tensor = (a.T @ b) / (a.norm(dim=0).unsqueeze(1) * b.norm(dim=0)).clamp_min(1e-12)
    return found.float()


def _matching(cosine: Tensor, fits: Tensor) -> int:
    """The number of pairs of a one-to-one assignment with the largest sum of cosines among the pairs that fit."""
    from scipy.optimize import linear_sum_assignment

    weights = torch.where(fits, cosine, torch.zeros_like(cosine)).numpy()
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return int(fits[rows, columns].sum())
