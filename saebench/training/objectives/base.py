"""The interface of objectives: a loss for a batch, and an autoencoder from the trained weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saebench.sae import Activation
from saebench.sae.sparse_ops import Entries, pick_pre_activations, sparse_decode
from saebench.training.config import TrainingConfig
from saebench.training.recipe import ALONE, Workspace, default_k_aux, largest, normalised_error

WORKSPACE = Workspace()


@dataclass
class Outcome:
    """The loss and statistics of a batch.

    Attributes:
        loss: to be minimised.
        normalised_mse: squared error over the activations' variance, without gradient.
        l0: active latents per token.
        fired: ``[n]`` bool, latents active in this batch.
    """

    loss: Tensor
    normalised_mse: Tensor
    l0: float
    fired: Tensor


class Weights(nn.Module):
    """The weights that every architecture has. ``encoder`` and ``decoder`` are ``[n, d]``; ``b_dec`` is also subtracted
    from the input.
    """

    def __init__(self, encoder: Tensor, decoder: Tensor, b_dec: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Parameter(encoder.clone())
        self.decoder = nn.Parameter(decoder.clone())
        self.b_enc = nn.Parameter(encoder.new_zeros(encoder.shape[0]))
        self.b_dec = nn.Parameter(b_dec.clone())

    @property
    def n(self) -> int:
        """Number of latents."""
        return self.encoder.shape[0]

    @property
    def d(self) -> int:
        """Width of the activations."""
        return self.encoder.shape[1]


class Objective(ABC):
    """An architecture's loss and its state.

    Attributes:
        config: of the run; ``weights``: the trained weights.
        variance: mean squared distance of the activations from their mean, by which errors are divided.
        dead: ``[n]`` bool, latents that count as dead for AuxK, updated by the trainer.
        mesh: the ranks that train together; weights, ``dead`` and codes are those of this rank's latents.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]] = ()
    """The axes over which it can be distributed: ``replicas``, ``shards``."""
    unit_decoder: ClassVar[bool] = True
    """Whether decoder directions are kept at unit norm."""

    def __init__(self, config: TrainingConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights
        self.variance = 1.0
        self.dead = torch.zeros(weights.n, dtype=torch.bool, device=weights.encoder.device)
        self.mesh = ALONE

    @abstractmethod
    def outcome(self, x: Tensor) -> Outcome:
        """The loss of a batch of scaled activations ``[tokens, d]``."""

    @abstractmethod
    def activation(self) -> Activation:
        """The activation function at inference."""

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters in addition to the common weights."""
        return {}

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Called once, before a new run's first step, with a sample of scaled activations ``[tokens, d]``."""

    def after_step(self, outcome: Outcome) -> None:
        """Called after each step: thresholds and penalties adapt here."""

    def state(self) -> dict[str, Tensor]:
        """The state besides parameters that is needed to resume exactly."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore ``state``."""

    def encoder_product(self, centred: Tensor) -> Tensor:
        """``[tokens, n]`` pre-activations without gradients, in bfloat16 where the run is configured so.

        The next call, of this or another objective, may overwrite them.
        """
        weights = self.weights
        with torch.no_grad():
            if self.config.bfloat16:
                return (centred.bfloat16() @ weights.encoder.bfloat16().T).float() + weights.b_enc
            pre = WORKSPACE.take(centred, (centred.shape[0], weights.n))
            return torch.addmm(weights.b_enc, centred, weights.encoder.T, out=pre)

    def picked(self, centred: Tensor, pre: Tensor, entries: Entries) -> Tensor:
        """Values of picked latents after ReLU, ``[entries]``, with gradients."""
        weights = self.weights
        return pick_pre_activations(centred, weights.encoder, weights.b_enc, pre, entries).relu()

    def decoded(self, entries: Entries, values: Tensor) -> Tensor:
        """``[tokens, d]`` reconstruction with the bias."""
        return self.mesh.sum_over_shards(sparse_decode(entries, values, self.weights.decoder)) + self.weights.b_dec

    def centred(self, x: Tensor) -> Tensor:
        """``x`` without the bias, as the encoder reads it."""
        return x - self.mesh.to_shards(self.weights.b_dec)

    def l0(self, values: Tensor, tokens: int) -> float:
        """Active latents per token of all shards."""
        return float(self.mesh.total((values.detach() > 0).sum(), over_replicas=False)) / tokens

    def auxiliary(self, centred: Tensor, pre: Tensor, error: Tensor) -> Tensor:
        """AuxK: the loss of reconstructing the error (``x - reconstruction``, ``[tokens, d]``) by dead latents, times its
        weight.

        0 where no latent is dead or the result is not finite.
        """
        dead = self.dead.nonzero().flatten()
        count = int(self.mesh.total(self.dead.sum(), over_replicas=False))
        if count == 0 or self.config.aux_coefficient == 0:
            return error.new_zeros(())
        k = min(self.config.k_aux or default_k_aux(self.weights.d), count)
        entries, _ = largest(pre, k, self.mesh, among=dead)
        partial = sparse_decode(entries, self.picked(centred, pre, entries), self.weights.decoder)
        target = error.detach()
        mean = self.mesh.mean_over_replicas(target.mean(dim=0))
        scale = self.mesh.mean_over_replicas((target - mean).square().sum(dim=1).mean())
        explained = self.mesh.sum_over_shards(partial)
        loss = self.config.aux_coefficient * normalised_error(explained, target, scale)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)


def fired_latents(entries: Entries, values: Tensor, n: int, least: float = 1e-3) -> Tensor:
    """``[n]`` bool: latents with an activation above ``least`` (that of the released code) somewhere in the batch."""
    fired = torch.zeros(n, dtype=torch.bool, device=values.device)
    fired[entries.columns[values.detach() > least]] = True
    return fired
