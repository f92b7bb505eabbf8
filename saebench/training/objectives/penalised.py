"""The common part of architectures with a sparsity penalty: ReLU, JumpReLU, Gated, ProLU."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from saebench.sae.sparse_ops import Entries, pick_pre_activations
from saebench.sae.topk import top_k
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Objective, Outcome, Weights, fired_latents
from saebench.training.objectives.penalty import Penalty
from saebench.training.recipe import normalised_error


class PenalisedObjective(Objective):
    """``|x - x̂|² / variance + coefficient * penalty``.

    Only the encoder's product is dense. Latents that are inactive and get no gradient, which are nearly all, take no part
    in what follows; the loss and its gradients are those of the dense formula.
    """

    axes: ClassVar[tuple[str, ...]] = ("replicas",)
    default_sparsity: float = 1e-3

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.penalty = Penalty(config, self.default_sparsity)

    def above(self) -> Tensor:
        """``[n]``: pre-activations up to it give neither a value nor a gradient; 0 for all by default."""
        return torch.zeros_like(self.weights.b_enc)

    @abstractmethod
    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """``[entries]`` activations from the pre-activations of the entries, with gradients."""

    def sparsity(self, pre: Tensor, z: Tensor, entries: Entries, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(penalty before its coefficient, further terms of the loss)``, from ``[entries]`` pre-activations and values.

        By default L1, mean over tokens, and no further term.
        """
        return per_token(z, entries), z.new_zeros(())

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        weights, centred = self.weights, self.centred(x)
        product = self.encoder_product(centred)
        rows, columns = (product > self.above()).nonzero(as_tuple=True)
        entries = Entries(rows, columns, x.shape[0])
        pre = pick_pre_activations(centred, weights.encoder, weights.b_enc, product, entries)
        z = self.latents(pre, entries)
        error = normalised_error(self.decoded(entries, z), x, self.variance)
        penalty, further = self.sparsity(pre, z, entries, x)
        loss = error + self.penalty.coefficient * penalty + further
        return Outcome(loss, error.detach(), self.l0(z, x.shape[0]), fired_latents(entries, z, weights.n))

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


def per_token(values: Tensor, entries: Entries) -> Tensor:
    """The sum of ``[entries]`` values, mean over tokens."""
    return values.sum() / entries.tokens
