"""Gated autoencoders (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders")."""

from __future__ import annotations

from torch import Tensor, nn

from saebench.sae import Activation, Gated
from saebench.sae.sparse_ops import Entries, sparse_decode
from saebench.training.config import TrainingConfig
from saebench.training.objectives.base import Weights
from saebench.training.objectives.penalised import PenalisedObjective, per_token
from saebench.training.recipe import normalised_error


class GatedObjective(PenalisedObjective):
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

    def latents(self, pre: Tensor, entries: Entries) -> Tensor:
        """Magnitudes, where the gate is open."""
        scale, gate, bias = (each[entries.columns] for each in (self.r_mag.exp(), self.weights.b_enc, self.b_mag))
        return ((pre - gate) * scale + bias).relu()

    def sparsity(self, pre: Tensor, z: Tensor, entries: Entries, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1 of the gate, and the gate's own reconstruction through a decoder that gets no gradient."""
        weights = self.weights
        seen = sparse_decode(entries, pre, weights.decoder.detach()) + weights.b_dec.detach()
        return per_token(pre, entries), normalised_error(seen, x, self.variance)

    def activation(self) -> Activation:
        """Gated."""
        return Gated(self.r_mag.detach(), self.b_mag.detach(), self.weights.b_enc.detach())
