"""BatchTopK (Bussmann et al. 2024; Leask et al. 2025): the B·k largest pre-activations of a batch of B tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from saebench.sae import Activation, JumpReLU
from saebench.sae.sparse_ops import Entries
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Objective, Outcome, Weights, fired_latents
from saebench.training.recipe import normalised_error

RECENT_TOKENS, RECENT_VALUES = 8192, 2**27


class BatchTopK(Objective):
    """Tokens share a budget of active latents; at inference it is replaced by one threshold.

    The threshold is computed when the autoencoder is exported: see ``activation``.
    """

    name = "batchtopk"
    axes: ClassVar[tuple[str, ...]] = ("replicas", "shards")

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self._recent = weights.encoder.new_zeros(0, weights.d)
        self._keep = min(RECENT_TOKENS, max(512, RECENT_VALUES // config.n))
        self._guess = 0.0

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        centred = self.centred(x)
        pre = self.encoder_product(centred)
        entries = self.select(pre)
        values = self.picked(centred, pre, entries)
        reconstruction, error = self.reconstruct(x, entries, values)
        loss = error + self.auxiliary(centred, pre, x - reconstruction)
        self._recent = torch.cat([self._recent, x.detach()])[-self._keep :]
        measured = normalised_error(reconstruction.detach(), x, self.variance)
        return Outcome(loss, measured, self.l0(values, x.shape[0]), fired_latents(entries, values, self.weights.n))

    def reconstruct(self, x: Tensor, entries: Entries, values: Tensor) -> tuple[Tensor, Tensor]:
        """``(reconstruction, error to be minimised)``."""
        reconstruction = self.decoded(entries, values)
        return reconstruction, normalised_error(reconstruction, x, self.variance)

    def select(self, pre: Tensor) -> Entries:
        """The ``B k`` largest entries of ``pre`` (``[B, n]``).

        Only entries above a bound from the last batch's smallest kept value are ranked, which are few.
        """
        tokens = pre.shape[0] * self.mesh.replicas
        wanted = min(tokens * self.config.k, tokens * self.config.n)
        flat = pre.flatten()
        candidates = (flat > 0.8 * self._guess).nonzero().flatten()
        if int(self.mesh.total(torch.tensor(candidates.numel(), device=pre.device))) < wanted:
            candidates = torch.arange(flat.numel(), device=pre.device)
        self._guess = self.mesh.cut_of_batch(flat[candidates], wanted)
        chosen = candidates[flat[candidates] >= self._guess]
        return Entries(chosen // pre.shape[1], chosen % pre.shape[1], pre.shape[0])

    def activation(self) -> Activation:
        """One threshold for all latents: that at which ``k`` are active on average over the last tokens trained on.

        It is computed for the current weights, trained or averaged. A running mean over batches, as published, lags
        behind weights that still change.
        """
        threshold, mesh = 0.0, replace(self.mesh, replicas=1)  # each part of the batch is a sample of its own
        wanted = self._recent.shape[0] * self.config.k
        if wanted:
            pre = self.encoder_product(self._recent - self.weights.b_dec).flatten()
            threshold = max(mesh.cut_of_batch(pre, min(wanted, self._recent.shape[0] * self.config.n)), 0.0)
        return JumpReLU(self.weights.encoder.new_full((self.weights.n,), threshold), self.name)

    def state(self) -> dict[str, Tensor]:
        """The last tokens, from which the threshold is computed."""
        return {"recent": self._recent}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The last tokens."""
        self._recent = state["recent"]
