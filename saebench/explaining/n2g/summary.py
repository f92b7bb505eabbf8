"""From a stratified sample of latents to a mean over all of them, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Summary(NamedTuple):
    """A mean over latents, its bootstrap standard error and 95 % interval, and the number of latents."""

    value: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    n: int


def summarise(
    values: Sequence[float | None], strata: Sequence[int], weights: Sequence[float], draws: int, seed: int
) -> Summary:
    """Weighted mean of ``values`` over latents, those that are None excluded.

    The interval is the percentile bootstrap's: latents are resampled within their strata, one fewer than the ``n`` that
    there are, each counted ``n / (n - 1)`` times (Rao and Wu 1988). Resampling ``n`` would understate the variance by the
    factor ``(n - 1) / n``: by half where a stratum has two.

    Args:
        values: one of each latent.
        strata: the stratum of each.
        weights: the number of latents that each represents.
        draws: bootstrap samples.
        seed: of the bootstrap.
    """
    kept = [index for index, value in enumerate(values) if value is not None]
    value = torch.tensor([float(values[index] or 0.0) for index in kept], dtype=torch.float64)
    weight = torch.tensor([weights[index] for index in kept], dtype=torch.float64)
    if not kept or float(weight.sum()) == 0:
        return Summary(None, None, None, len(kept))
    mean = float((value * weight).sum() / weight.sum())
    groups = torch.tensor([strata[index] for index in kept])
    if int(torch.bincount(groups).max()) < 2:
        return Summary(mean, None, None, len(kept))
    means = _bootstrap(value, weight, groups, draws, seed)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Summary(mean, float(means.std()), (low, high), len(kept))


def _bootstrap(value: Tensor, weight: Tensor, groups: Tensor, draws: int, seed: int) -> Tensor:
    """``[draws]``: weighted means of bootstrap samples."""
    generator = torch.Generator().manual_seed(seed)
    above = torch.zeros(draws, dtype=torch.float64)
    below = torch.zeros(draws, dtype=torch.float64)
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().squeeze(1)
        size = max(1, members.numel() - 1)
        drawn = members[torch.randint(members.numel(), (draws, size), generator=generator)]
        above += (value * weight)[drawn].sum(dim=1) * members.numel() / size
        below += weight[drawn].sum(dim=1) * members.numel() / size
    return above / below
