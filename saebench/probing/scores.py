"""Scores of a probe on held-out examples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.results.statistics import ratio_estimate


def held_out(logits: Tensor, labels: Tensor, groups: Tensor, trained_on: int, draws: int, seed: int) -> dict[str, Any]:
    """Loss with standard error and bootstrap interval, accuracy and AUC, as JSON data.

    Probabilities are clipped to ``1 / (N + 2)`` and ``1 - 1 / (N + 2)``, with ``N`` training examples (the rule of
    succession): a probe of separable training examples predicts 0 or 1, and one wrong example would have unbounded loss.

    Args:
        logits: ``[examples]``, of label 1.
        labels: ``[examples]``.
        groups: ``[examples]``: examples with the same number came from the same source row, and are resampled together.
        trained_on: number of training examples.
        draws: bootstrap samples.
        seed: of the bootstrap.
    """
    losses = clipped_losses(logits, labels, trained_on)
    sums, counts = sums_by_group(losses, groups)
    estimate = ratio_estimate(sums, counts)
    assert estimate.value is not None
    correct = ((logits > 0) == (labels == 1)).double()
    return {
        "loss": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": bootstrap_interval(sums, counts, draws, seed),
        "accuracy": float(correct.mean()),
        "auc": area_under_curve(logits, labels),
    }


def clipped_losses(logits: Tensor, labels: Tensor, trained_on: int) -> Tensor:
    """``[examples]`` float64 nats."""
    least = 1 / (trained_on + 2)
    probability = logits.double().sigmoid().clamp(least, 1 - least)
    return -torch.where(labels == 1, probability, 1 - probability).log()


def sums_by_group(losses: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """``(sums, counts)`` of each group of examples, ``[groups]`` float64 each, from ``[examples]``."""
    _, numbers = groups.unique(return_inverse=True)
    sums = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64)
    return sums.index_add(0, numbers, losses), sums.index_add(0, numbers, torch.ones_like(losses))


def bootstrap_interval(sums: Tensor, counts: Tensor, draws: int, seed: int) -> list[float]:
    """95 % percentile interval of ``sum(sums) / sum(counts)``, resampling groups (``[groups]`` each) with replacement."""
    times = _times_drawn(sums.numel(), draws, seed)
    means = (times @ sums) / (times @ counts)
    found: list[float] = np.quantile(means.numpy(), [0.025, 0.975]).tolist()  # PyTorch's takes as long as all else here
    return found


@lru_cache(maxsize=1)
def _times_drawn(groups: int, draws: int, seed: int) -> Tensor:
    """``[draws, groups]`` float64: how often each group is drawn, with replacement; tasks of one size share it."""
    drawn = torch.randint(groups, (draws, groups), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(draws, groups, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """The probability that a random example of label 1 scores above one of label 0; ties count half (Mann-Whitney)."""
    ones, zeros = scores[labels == 1].double(), scores[labels == 0].double()
    above = (ones[:, None] > zeros).double() + 0.5 * (ones[:, None] == zeros).double()
    return float(above.mean())
