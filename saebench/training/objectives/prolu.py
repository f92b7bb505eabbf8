"""ProLU (Taggart 2024): ``pre`` where ``pre + b > 0`` and ``pre > 0``, with a straight-through gradient for ``b``."""

from __future__ import annotations

from torch import Tensor, nn

from saebench.sae import Activation, ProLU
from saebench.sae.sparse_ops import Entries
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Weights
from saebench.training.objectives.penalised import PenalisedObjective


class ProLUObjective(PenalisedObjective):
    """L1 penalty; the common ``b_enc`` stays 0 and is replaced by the thresholding bias."""

    name = "prolu"

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.bias = nn.Parameter(weights.encoder.new_zeros(weights.n))
        weights.b_enc.requires_grad_(False)

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """The thresholding biases."""
        return {"prolu_bias": self.bias}

    def start_at(self, threshold: float) -> None:
        """Set the thresholding bias."""
        self.bias.fill_(-threshold)

    def above(self) -> Tensor:
        """``max(-bias, 0)``."""
        return (-self.bias.detach()).clamp_min(0)

    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """The pre-activations; the bias receives their gradient (the straight-through form, ProLU-STE)."""
        return pre + (self.bias - self.bias.detach())[entries.columns]

    def activation(self) -> Activation:
        """ProLU."""
        return ProLU(self.bias.detach())
