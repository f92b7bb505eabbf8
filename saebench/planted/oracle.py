"""The oracle: the true dictionary as decoder, with the best linear encoder and one threshold for each latent.

In superposition no linear encoder reads a feature exactly. The oracle's regresses each feature's true value on the
activations (ridge), is scaled so that active values have the true mean, and has the threshold with the highest F1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.planted.features import PlantedFeatures
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder

RIDGE, CANDIDATES = 1e-3, 64


def fit_oracle(features: PlantedFeatures, activations: Tensor, code: Tensor, model: str, hook: str) -> SparseAutoencoder:
    """The oracle from a sample: ``activations`` ``[tokens, d]`` and the true ``code`` ``[tokens, F]``."""
    mean = activations.mean(dim=0)
    x, z = (activations - mean).double(), code.double()
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(x.shape[1], dtype=torch.float64)
    encoder = torch.linalg.solve(gram, x.T @ (z - z.mean(dim=0)))
    bias = z.mean(dim=0)
    pre = x @ encoder + bias
    thresholds = torch.stack([_threshold(pre[:, index], z[:, index] > 0) for index in range(z.shape[1])])
    hit = (pre > thresholds) & (z > 0)
    scale = torch.where(hit, z, 0.0).sum(dim=0) / torch.where(hit, pre, 0.0).sum(dim=0).clamp_min(1e-9)
    scale = torch.where(hit.any(dim=0), scale, 1.0)
    d, n = encoder.shape
    return SparseAutoencoder(
        W_enc=(encoder * scale).float(),
        W_dec=features.directions.clone(),
        b_enc=(bias * scale).float(),
        b_dec=(activations - code @ features.directions).mean(dim=0),
        b_pre=mean,
        activation=JumpReLU((thresholds * scale).float()),
        info=CheckpointInfo("oracle", "saebench", "jumprelu", d, d, n, {}, hook_in=hook, hook_out=hook, model=model),
    )


def _threshold(pre: Tensor, active: Tensor) -> Tensor:
    """The threshold above which ``pre`` tells ``active`` with the highest F1, among quantiles of the active values."""
    if not bool(active.any()):
        return pre.max() + 1.0
    candidates = pre[active].quantile(torch.linspace(0, 1, CANDIDATES, dtype=pre.dtype)).clamp_min(1e-3)
    chosen, hits = _at_least(pre, candidates), _at_least(pre[active], candidates)
    f1 = 2 * hits / (chosen + active.sum())
    return candidates[f1.argmax()] * (1 - 1e-6)


def _at_least(values: Tensor, bounds: Tensor) -> Tensor:
    """``[bounds]``: how many of ``values`` are at least as large as each."""
    return values.numel() - torch.searchsorted(values.sort().values, bounds)
