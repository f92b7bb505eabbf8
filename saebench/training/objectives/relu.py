"""ReLU with an L1 penalty (Gao et al. 2024, section 2.2; Bricken et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from saebench.sae import Activation, ReLU
from saebench.training.objectives.dense import DenseObjective


class ReLUObjective(DenseObjective):
    """``|x - x̂|² / variance + lambda |z|_1`` with unit decoder directions."""

    name = "relu"

    def latents(self, pre: Tensor) -> Tensor:
        """ReLU."""
        return pre.relu()

    def sparsity(self, pre: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1, mean over tokens."""
        return z.sum(dim=1).mean(), z.new_zeros(())

    def activation(self) -> Activation:
        """ReLU."""
        return ReLU()
