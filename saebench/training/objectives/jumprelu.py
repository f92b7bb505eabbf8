"""JumpReLU with straight-through estimators (Rajamanoharan et al. 2024, "Jumping ahead"; derived there in section 3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from saebench.sae import Activation, JumpReLU
from saebench.sae.sparse_ops import Entries
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Outcome, Weights
from saebench.training.objectives.penalised import PenalisedObjective, per_token

INITIAL_THRESHOLD = 0.1
SHIFT, LARGEST = 0.05, 1.0


class _Jump(torch.autograd.Function):
    """``pre * H(pre - theta)``; pseudo-derivative to theta: ``-(theta / eps) K((pre - theta) / eps)``, K a rectangle."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        gradient, near = gradients[0], (pre - threshold).abs() < ctx.bandwidth / 2
        return gradient * (pre > threshold), near * gradient * threshold / -ctx.bandwidth, None


class _Step(torch.autograd.Function):
    """``H(pre - theta)``; pseudo-derivative to theta: ``-(1 / eps) K((pre - theta) / eps)``, none to pre."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, near * gradients[0] / -ctx.bandwidth, None


def jump(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """``pre * H(pre - threshold)`` with its straight-through estimator, element by element: both have the same shape."""
    out: Tensor = _Jump.apply(pre, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return out


def step(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """``H(pre - threshold)`` with its straight-through estimator, element by element."""
    out: Tensor = _Step.apply(pre, threshold, bandwidth)  # type: ignore[no-untyped-call]
    return out


class JumpReLUObjective(PenalisedObjective):
    """``|x - x̂|² / variance + lambda L0``, thresholds learned as logarithms."""

    name = "jumprelu"

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.log_threshold = nn.Parameter(weights.encoder.new_full((weights.n,), math.log(INITIAL_THRESHOLD)))

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """The thresholds' logarithms."""
        return {"log_threshold": self.log_threshold}

    def start_at(self, threshold: float) -> None:
        """Set the thresholds."""
        self.log_threshold.fill_(math.log(threshold))

    def above(self) -> Tensor:
        """The thresholds, less the half bandwidth in which they get a gradient."""
        return self.log_threshold.detach().exp() - self.config.bandwidth / 2

    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """JumpReLU."""
        return jump(pre, self.log_threshold.exp()[entries.columns], self.config.bandwidth)

    def sparsity(self, pre: Tensor, z: Tensor, entries: Entries, x: Tensor) -> tuple[Tensor, Tensor]:
        """L0, mean over tokens."""
        thresholds = self.log_threshold.exp()[entries.columns]
        return per_token(step(pre, thresholds, self.config.bandwidth), entries), z.new_zeros(())

    def after_step(self, outcome: Outcome) -> None:
        """Adapt the penalty to L0; with a target L0 also shift all thresholds in proportion to the deviation from it.

        Each threshold's own gradient is too slow to compensate for a penalty that was too strong before.
        """
        super().after_step(outcome)
        if self.penalty.wanted:
            missed = math.log(max(outcome.l0, 0.1) / self.penalty.wanted)
            with torch.no_grad():
                self.log_threshold.add_(SHIFT * min(max(missed, -LARGEST), LARGEST))

    def activation(self) -> Activation:
        """JumpReLU."""
        return JumpReLU(self.log_threshold.detach().exp())
