"""The sparsity of an intervention's effect on the logits.

Source: Gao et al. 2024, section 4.5. The effect is the difference of logits over V words at T positions, minus the median
over words at each position; ``(L1 / L2)^2 / (V T)`` of that vector is the effective share of (word, position) pairs that
are affected: ``1 / (V T)`` where one is, 1 where all are, equally.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROWS_AT_ONCE = 16
"""Rows of logits whose median is taken at once: 3 MiB at a vocabulary of 49,152, which stays in the cache."""


class Effect(NamedTuple):
    """The effects of a batch of interventions.

    Attributes:
        sparsity: ``[batch]`` float64, ``(L1 / L2)^2 / (V T)``; NaN where nothing changed.
        size: ``[batch]`` float64, L2 of the effect, in logits.
    """

    sparsity: Tensor
    size: Tensor


def effect(logits: Tensor, reference: Tensor) -> Effect:
    """Reduce a batch of interventions. ``logits`` is overwritten, so that no second tensor of its size is needed.

    Args:
        logits: ``[batch, T, V]`` float32 or float64, with the interventions.
        reference: ``[T, V]``, without.
    """
    batch, positions, words = logits.shape
    change = logits.sub_(reference).flatten(0, 1)  # a copy where the logits are a slice of longer ones
    for part in change.split(ROWS_AT_ONCE):
        part.sub_(median(part).unsqueeze(1))
    l1 = torch.linalg.vector_norm(change, ord=1, dim=1).double().view(batch, positions).sum(dim=1)
    squares = torch.linalg.vector_norm(change, dim=1).double().square().view(batch, positions).sum(dim=1)
    return Effect((l1.square() / squares / (words * positions)).cpu(), squares.sqrt().cpu())


def median(values: Tensor) -> Tensor:
    """``[rows]``: the exact median of each row (``[rows, columns]``), the mean of the middle two of an even number.

    On a CPU numpy's partition finds it several times as fast as torch.
    """
    upper = values.shape[1] // 2
    lower = (values.shape[1] - 1) // 2
    if values.device.type != "cpu":
        ordered = values.sort(dim=1).values
        return (ordered[:, lower] + ordered[:, upper]) / 2
    parted = np.partition(values.numpy(), upper, axis=1)
    middle = torch.from_numpy(parted[:, upper].copy())
    if lower == upper:
        return middle
    return (torch.from_numpy(parted[:, :upper]).amax(dim=1) + middle) / 2
