"""A sparsity penalty whose coefficient can follow a wanted L0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebench.training.config import TrainingConfig

SMOOTHING, RATE = 0.95, 0.02


class Penalty:
    """The coefficient of a sparsity penalty.

    With a wanted L0 its logarithm moves by ``RATE * log(L0 / wanted)`` a step, of a smoothed L0; without one it stays.

    Attributes:
        coefficient: its present value.
        l0: smoothed, as seen so far.
    """

    def __init__(self, config: TrainingConfig, default: float) -> None:
        self.wanted = config.target_l0
        self.coefficient = config.sparsity or default
        self.l0 = 0.0

    def follow(self, l0: float) -> None:
        """Take in a batch's L0."""
        self.l0 = l0 if self.l0 == 0 else SMOOTHING * self.l0 + (1 - SMOOTHING) * l0
        if self.wanted:
            change = RATE * math.log(max(self.l0, 0.1) / self.wanted)
            self.coefficient = min(max(self.coefficient * math.exp(min(max(change, -0.1), 0.1)), 1e-9), 1e4)

    def state(self) -> dict[str, Tensor]:
        """For resuming."""
        return {"penalty": torch.tensor([self.coefficient, self.l0], dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take ``state`` back."""
        self.coefficient, self.l0 = state["penalty"].tolist()
