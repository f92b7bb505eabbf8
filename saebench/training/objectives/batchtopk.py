"""BatchTopK (Bussmann et al. 2024; Leask et al. 2025): the B·k largest pre-activations of a batch of B tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from saebench.sae import Activation, JumpReLU
from saebench.sae.sparse_ops import Entries
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Objective, Outcome, Weights, fired_latents
from saebench.training.recipe import normalised_error

THRESHOLD_DECAY = 0.99


class BatchTopK(Objective):
    """Tokens share a budget of active latents; at inference one threshold, learned in training, takes its place.

    The threshold is the mean over batches of the smallest positive value kept, the recent ones counting most.
    """

    name = "batchtopk"
    axes: ClassVar[tuple[str, ...]] = ("replicas", "shards")

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self._sum, self._weight = torch.zeros(()), torch.zeros(())
        self._guess = 0.0

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        centred = self.centred(x)
        pre = self.encoder_product(centred)
        entries = self.select(pre)
        values = self.picked(centred, pre, entries)
        reconstruction, error = self.reconstruct(x, entries, values)
        loss = error + self.auxiliary(centred, pre, x - reconstruction)
        positive = values.detach()[values.detach() > 0]
        least = positive.min() if positive.numel() else values.new_tensor(float("inf"))
        least = self.mesh.smallest(least).cpu()
        if bool(least.isfinite()):
            self._sum = THRESHOLD_DECAY * self._sum + (1 - THRESHOLD_DECAY) * least
            self._weight = THRESHOLD_DECAY * self._weight + (1 - THRESHOLD_DECAY)
        measured = normalised_error(reconstruction.detach(), x, self.variance)
        return Outcome(loss, measured, self.l0(values, x.shape[0]), fired_latents(entries, values, self.weights.n))

    def reconstruct(self, x: Tensor, entries: Entries, values: Tensor) -> tuple[Tensor, Tensor]:
        """``(reconstruction, error to be minimised)``."""
        reconstruction = self.decoded(entries, values)
        return reconstruction, normalised_error(reconstruction, x, self.variance)

    def select(self, pre: Tensor) -> Entries:
        """The ``B k`` largest entries of ``pre`` (``[B, n]``).

        The last batch's smallest kept value says where to look: entries above most of it are few, and are ranked alone.
        """
        tokens = pre.shape[0] * self.mesh.replicas
        wanted = min(tokens * self.config.k, tokens * self.config.n)
        flat = pre.flatten()
        candidates = (flat > 0.8 * self._guess).nonzero().flatten() if self._guess > 0 else None
        enough = (
            candidates is not None and int(self.mesh.total(torch.tensor(candidates.numel(), device=pre.device))) >= wanted
        )
        if candidates is None or not enough:
            candidates = torch.arange(flat.numel(), device=pre.device)
        self._guess = self.mesh.cut_of_batch(flat[candidates], wanted)
        chosen = candidates[flat[candidates] >= self._guess]
        return Entries(chosen // pre.shape[1], chosen % pre.shape[1], pre.shape[0])

    @property
    def threshold(self) -> float:
        """Of inference."""
        return float(self._sum / self._weight) if float(self._weight) > 0 else 0.0

    def activation(self) -> Activation:
        """One threshold for all latents."""
        return JumpReLU(torch.full((self.weights.n,), self.threshold), self.name)

    def state(self) -> dict[str, Tensor]:
        """The running threshold."""
        return {"threshold_sum": self._sum, "threshold_weight": self._weight}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The running threshold."""
        self._sum, self._weight = state["threshold_sum"], state["threshold_weight"]
