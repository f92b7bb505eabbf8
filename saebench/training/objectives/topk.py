"""TopK and Multi-TopK (Gao et al. 2024, sections 2.3 and 5.3)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from saebench.sae import Activation, TopK
from saebench.training.objectives.base import Objective, Outcome, fired_latents
from saebench.training.recipe import largest, normalised_error


class TopKObjective(Objective):
    """``|x - x̂|² / variance + AuxK`` with the k largest pre-activations of each token."""

    name = "topk"
    axes: ClassVar[tuple[str, ...]] = ("replicas", "shards")

    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch."""
        centred = self.centred(x)
        pre = self.encoder_product(centred)
        entries, _ = largest(pre, self.config.k, self.mesh)
        values = self.picked(centred, pre, entries)
        reconstruction = self.decoded(entries, values)
        error = normalised_error(reconstruction, x, self.variance)
        loss = error + self.further(x, centred, pre) + self.auxiliary(centred, pre, x - reconstruction)
        return Outcome(loss, error.detach(), self.l0(values, x.shape[0]), fired_latents(entries, values, self.weights.n))

    def further(self, x: Tensor, centred: Tensor, pre: Tensor) -> Tensor:
        """Terms that other objectives add."""
        return x.new_zeros(())

    def activation(self) -> Activation:
        """TopK."""
        return TopK(self.config.k)


class MultiTopK(TopKObjective):
    """TopK whose code is also trained at ``4 k``: ``L(k) + L(4k) / 8``."""

    name = "multitopk"

    def further(self, x: Tensor, centred: Tensor, pre: Tensor) -> Tensor:
        """The error with ``4 k`` active latents, with a weight of 1/8."""
        entries, _ = largest(pre, min(4 * self.config.k, self.config.n), self.mesh)
        return normalised_error(self.decoded(entries, self.picked(centred, pre, entries)), x, self.variance) / 8
