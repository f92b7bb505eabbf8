"""ReLU with an L1 penalty (Gao et al. 2024, section 2.2; Bricken et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from saebench.sae import Activation, ReLU
from saebench.sae.sparse_ops import Entries
from saebench.training.objectives.penalised import PenalisedObjective


class ReLUObjective(PenalisedObjective):
    """``|x - x̂|² / variance + lambda |z|_1`` with unit decoder directions."""

    name = "relu"

    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """The pre-activations, all of which are positive."""
        return pre

    def activation(self) -> Activation:
        """ReLU."""
        return ReLU()
