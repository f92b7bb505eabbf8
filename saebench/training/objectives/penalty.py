"""A sparsity penalty whose coefficient can be adapted to a target L0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebench.training.config import TrainingConfig

PROPORTIONAL, INTEGRAL, LARGEST = 2.0, 0.1, 1.0
LEAST = 0.1


class Penalty:
    """The coefficient of a sparsity penalty.

    With a target L0 it is controlled by ``e = log(L0 / target)``: a step multiplies it by ``exp(P de + I e)``, P and I being
    ``PROPORTIONAL`` and ``INTEGRAL``, ``de`` the change of ``e`` since the last step, ``e`` at most ``LARGEST``. The first
    term decreases as soon as L0 falls, so that latents do not die; the second removes a constant deviation.

    Attributes:
        coefficient: its current value.
        l0: of the last batch, or 0.
    """

    def __init__(self, config: TrainingConfig, default: float) -> None:
        self.wanted = config.target_l0
        self.coefficient = config.sparsity or default
        self.l0 = 0.0

    def update(self, l0: float) -> None:
        """Update with a batch's L0."""
        l0 = max(l0, LEAST)
        if self.wanted:
            error = math.log(l0 / self.wanted)
            change = PROPORTIONAL * math.log(l0 / self.l0) if self.l0 else 0.0
            moved = change + INTEGRAL * min(max(error, -LARGEST), LARGEST)
            self.coefficient = min(max(self.coefficient * math.exp(moved), 1e-9), 1e4)
        self.l0 = l0

    def state(self) -> dict[str, Tensor]:
        """The state for resuming."""
        return {"penalty": torch.tensor([self.coefficient, self.l0], dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore ``state``."""
        self.coefficient, self.l0 = state["penalty"].tolist()
