"""Gated autoencoders (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders")."""

from __future__ import annotations

from torch import Tensor, nn

from saebench.sae import Activation, Gated
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Weights
from saebench.training.objectives.dense import DenseObjective
from saebench.training.recipe import normalised_error


class GatedObjective(DenseObjective):
    """``b_enc`` is the gate's bias; magnitudes share the encoder's directions, scaled by ``exp(r_mag)``.

    The loss adds L1 of the gate's positive part and the error of its reconstruction by a frozen decoder, which trains
    the gate, whose step function has no gradient.
    """

    name = "gated"

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        self.r_mag = nn.Parameter(weights.encoder.new_zeros(weights.n))
        self.b_mag = nn.Parameter(weights.encoder.new_zeros(weights.n))

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """Magnitudes' scales and biases."""
        return {"r_mag": self.r_mag, "b_mag": self.b_mag}

    def latents(self, pre: Tensor) -> Tensor:
        """Magnitudes where the gate is open."""
        magnitude = (pre - self.weights.b_enc) * self.r_mag.exp() + self.b_mag
        return magnitude.relu() * (pre > 0)

    def sparsity(self, pre: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1 of the gate, and the gate's own reconstruction through a decoder that gets no gradient."""
        gate = pre.relu()
        weights = self.weights
        seen = gate @ weights.decoder.detach() + weights.b_dec.detach()
        return gate.sum(dim=1).mean(), normalised_error(seen, x, self.variance)

    def activation(self) -> Activation:
        """Gated."""
        return Gated(self.r_mag.detach(), self.b_mag.detach(), self.weights.b_enc.detach())
