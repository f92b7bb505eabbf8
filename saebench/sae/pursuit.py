"""Matching pursuit: latents are chosen one after the other, each for what the earlier ones left unexplained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae.activations import Activation, Selection

CHUNK_ELEMENTS = 2**24
"""The most products of residuals and directions held at once."""
MOST_STEPS = 100_000
"""More are not evaluated: a file could ask for a run without end."""


@dataclass(frozen=True)
class MatchingPursuit(Activation):
    """Matching pursuit over the decoder's directions (Mallat and Zhang 1993; Costa et al. 2025).

    From the residual ``r = x - b_pre`` each step takes the latent with the largest product ``v = r . W_dec[i]``, adds
    ``v`` to its value and subtracts ``v * W_dec[i]`` from ``r``. A token ends where no product is positive, where
    ``|r| < threshold`` (0: never), where a latent is taken again (``stop_on_repeat``; its value is still added), or
    after ``iterations``.

    What other activation functions call pre-activations are here the products of the first step.
    """

    threshold: float
    iterations: int
    stop_on_repeat: bool = True
    name = "matching_pursuit"

    def select(self, tokens: int, n_latents: int) -> Selection:
        """Not defined: a latent's value depends on the directions of others, not on pre-activations alone."""
        raise SaebenchError("Matching pursuit does not select latents by their pre-activations.")

    def prefix(self, n_latents: int) -> MatchingPursuit:
        """The same procedure, over fewer directions."""
        return self

    def describe(self) -> dict[str, Any]:
        """The name and when it stops."""
        return {
            "name": self.name, "threshold": self.threshold, "iterations": self.iterations,
            "stop_on_repeat": self.stop_on_repeat,
        }  # fmt: skip

    def check(self, n_latents: int) -> None:
        """Raise ``SaebenchError`` unless it ends after a positive, not enormous number of steps."""
        if not 1 <= self.iterations <= MOST_STEPS or not math.isfinite(self.threshold):
            raise SaebenchError(
                f"Matching pursuit stops after {self.iterations} steps or below {self.threshold}; 1 to {MOST_STEPS:,} steps "
                "and a finite number are needed."
            )

    def pursue(self, centred: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
        """``(indices, values)``, each ``[tokens, slots]``, of activations ``[tokens, d]`` and directions ``[n, d]``."""
        residual = centred.clone()
        tokens = residual.shape[0]
        indices = torch.zeros(tokens, 0, dtype=torch.int64, device=residual.device)
        values = residual.new_zeros(tokens, 0)
        open_tokens = torch.arange(tokens, device=residual.device)
        for _ in range(self.iterations):
            if not open_tokens.numel():
                break
            latent = _best(residual[open_tokens], W_dec)
            direction = W_dec[latent].to(residual.dtype)
            value = (residual[open_tokens] * direction).sum(dim=1).relu()
            again = (indices[open_tokens] == latent.unsqueeze(1)) & (values[open_tokens] != 0)
            values[open_tokens] += again * value.unsqueeze(1)
            fresh = ~again.any(dim=1) & (value > 0)
            if fresh.any():
                indices, values = F.pad(indices, (0, 1)), F.pad(values, (0, 1))
                indices[open_tokens[fresh], -1] = latent[fresh]
                values[open_tokens[fresh], -1] = value[fresh]
            residual[open_tokens] -= value.unsqueeze(1) * direction
            ended = value <= 0
            if self.stop_on_repeat:
                ended |= ~fresh
            if self.threshold > 0:
                ended |= torch.linalg.vector_norm(residual[open_tokens], dim=1) < self.threshold
            open_tokens = open_tokens[~ended]
        return indices, values


def _best(residual: Tensor, W_dec: Tensor) -> Tensor:
    """``[tokens]``: the latent with the largest product, in chunks of latents."""
    best: Tensor | None = None
    latent = torch.zeros(residual.shape[0], dtype=torch.int64, device=residual.device)
    size = max(1, CHUNK_ELEMENTS // max(1, residual.shape[0]))
    for start in range(0, W_dec.shape[0], size):
        largest, place = (residual @ W_dec[start : start + size].to(residual.dtype).T).max(dim=1)
        larger = torch.ones_like(place, dtype=torch.bool) if best is None else largest > best
        latent = torch.where(larger, place + start, latent)
        best = largest if best is None else torch.where(larger, largest, best)
    return latent
