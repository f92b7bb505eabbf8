"""ProLU (Taggart 2024): ``pre`` where ``pre + b > 0`` and ``pre > 0``, with a straight-through gradient for ``b``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saebench.sae import Activation, ProLU
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Weights
from saebench.training.objectives.dense import DenseObjective


class _ProLU(torch.autograd.Function):
    """The bias receives the gradient of the pre-activation (the straight-through form, ProLU-STE)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, bias: Tensor) -> Tensor:
        gate = (pre + bias > 0) & (pre > 0)
        ctx.save_for_backward(gate)
        return pre * gate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gate,) = ctx.saved_tensors
        through = gradients[0] * gate
        return through, through.sum(dim=0)


class ProLUObjective(DenseObjective):
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

    def latents(self, pre: Tensor) -> Tensor:
        """ProLU."""
        out: Tensor = _ProLU.apply(pre, self.bias)  # type: ignore[no-untyped-call]
        return out

    def sparsity(self, pre: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1, mean over tokens."""
        return z.sum(dim=1).mean(), z.new_zeros(())

    def activation(self) -> Activation:
        """ProLU."""
        return ProLU(self.bias.detach())
