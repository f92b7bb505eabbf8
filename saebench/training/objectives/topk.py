"""TopK and Multi-TopK (Gao et al. 2024, sections 2.3 and 5.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.sae import Activation, TopK
from saebench.sae.sparse_ops import Entries
from saebench.sae.topk import top_k
from saebench.training.objectives.base import Objective, Outcome, fired_latents
from saebench.training.recipe import normalised_error


class TopKObjective(Objective):
    """``|x - x̂|² / variance + AuxK`` with the k largest pre-activations of each token."""

    name = "topk"

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        centred = x - self.weights.b_dec
        pre = self.encoder_product(centred)
        _, indices = top_k(pre, self.config.k)
        entries = Entries.regular(indices)
        values = self.picked(centred, pre, entries)
        reconstruction = self.decoded(entries, values)
        error = normalised_error(reconstruction, x, self.variance)
        loss = error + self.further(x, centred, pre) + self.auxiliary(centred, pre, x - reconstruction)
        l0 = float((values.detach() > 0).sum()) / x.shape[0]
        return Outcome(loss, error.detach(), l0, fired_latents(entries, values, self.weights.n))

    def further(self, x: Tensor, centred: Tensor, pre: Tensor) -> Tensor:
        """Terms that other objectives add."""
        return torch.zeros(())

    def activation(self) -> Activation:
        """TopK."""
        return TopK(self.config.k)


class MultiTopK(TopKObjective):
    """TopK whose code is also asked to work at ``4 k``: ``L(k) + L(4k) / 8``."""

    name = "multitopk"

    def further(self, x: Tensor, centred: Tensor, pre: Tensor) -> Tensor:
        """The error at four times the sparsity, with an eighth of the weight."""
        _, indices = top_k(pre, min(4 * self.config.k, self.weights.n))
        entries = Entries.regular(indices)
        return normalised_error(self.decoded(entries, self.picked(centred, pre, entries)), x, self.variance) / 8
