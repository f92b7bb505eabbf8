"""ReLU with an L1 penalty (Gao et al. 2024, section 2.2; Bricken et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.sae import Activation, ReLU
from saebench.sae.sparse_ops import Entries
from saebench.training.objectives.penalised import PenalisedObjective, per_token


class ReLUObjective(PenalisedObjective):
    """``|x - x̂|² / variance + lambda |z|_1`` with unit decoder directions."""

    name = "relu"

    def above(self) -> Tensor:
        """0."""
        return torch.zeros_like(self.weights.b_enc)

    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """The pre-activations, all of which are positive."""
        return pre

    def sparsity(self, pre: Tensor, z: Tensor, entries: Entries, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1, mean over tokens."""
        return per_token(z, entries), z.new_zeros(())

    def activation(self) -> Activation:
        """ReLU."""
        return ReLU()
