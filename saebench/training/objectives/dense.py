"""The common part of architectures that need every latent's gradient: ReLU, JumpReLU, Gated, ProLU."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from saebench.sae.topk import top_k
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Objective, Outcome, Weights
from saebench.training.objectives.penalty import Penalty
from saebench.training.recipe import normalised_error


class DenseObjective(Objective):
    """``|x - x̂|² / variance + coefficient * penalty``, with dense latents."""

    axes: ClassVar[tuple[str, ...]] = ("replicas",)
    default_sparsity: float = 1e-3

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.penalty = Penalty(config, self.default_sparsity)

    @abstractmethod
    def latents(self, pre: Tensor) -> Tensor:
        """``[tokens, n]`` activations from pre-activations, with gradients."""

    @abstractmethod
    def sparsity(self, pre: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(penalty before its coefficient, further terms of the loss)``."""

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        weights = self.weights
        pre = (x - weights.b_dec) @ weights.encoder.T + weights.b_enc
        z = self.latents(pre)
        error = normalised_error(z @ weights.decoder + weights.b_dec, x, self.variance)
        penalty, further = self.sparsity(pre, z, x)
        active = z.detach() > 0
        return Outcome(
            loss=error + self.penalty.coefficient * penalty + further,
            normalised_mse=error.detach(),
            l0=float(active.sum()) / x.shape[0],
            fired=(z.detach() > 1e-3).any(dim=0),
        )

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """With a target L0, set the initial threshold, the same for all latents, to about that many active latents.

        Otherwise half of all latents are active at the start, and the penalty that reduces them makes most of them dead.
        """
        if self.penalty.wanted:
            pre = (x - self.weights.b_dec) @ self.weights.encoder.T
            values, _ = top_k(pre, min(max(1, round(self.penalty.wanted)), self.weights.n))
            self.start_at(float(values.min(dim=1).values.mean().clamp_min(1e-3)))

    def start_at(self, threshold: float) -> None:
        """Set the initial threshold of all latents to a pre-activation of ``threshold``."""
        self.weights.b_enc.fill_(-threshold)

    def after_step(self, outcome: Outcome) -> None:
        """Adapt the penalty to L0."""
        self.penalty.update(outcome.l0)

    def state(self) -> dict[str, Tensor]:
        """The penalty's state."""
        return self.penalty.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The penalty's state."""
        self.penalty.load_state(state)
