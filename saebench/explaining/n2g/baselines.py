"""Baselines of explanations: tries of single tokens, random directions, the residual stream's channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.explaining.examples.sampling import EncodedRows
from saebench.explaining.n2g.graphs import Examples
from saebench.explaining.n2g.trie import Path, Trie
from saebench.sae import Autoencoder, CheckpointInfo, InputScaling, SparseAutoencoder, TopK

BASELINES = ("unigram", "random", "channels")
MOST_RANDOM = 16_384
"""Maximum number of random directions; more would only cost memory."""


class InputMoments:
    """Mean and standard deviation of an autoencoder's scaled input, and its mean number of active latents."""

    def __init__(self, sae: Autoencoder) -> None:
        self.scaling = sae.scaling if isinstance(sae, SparseAutoencoder) else InputScaling()
        self.tokens, self.active = 0, 0
        self._sum = torch.zeros(sae.d_in, dtype=torch.float64)
        self._squares = torch.zeros(sae.d_in, dtype=torch.float64)

    def update(self, batch: EncodedRows) -> None:
        """Add a batch."""
        x = self.scaling.apply(batch.inputs).activations.double()
        self.tokens += x.shape[0]
        self.active += int((batch.latents.values > 0).sum())
        self._sum += x.sum(dim=0).cpu()
        self._squares += x.square().sum(dim=0).cpu()

    @property
    def mean(self) -> Tensor:
        """``[d]`` float32."""
        return (self._sum / self.tokens).float()

    @property
    def spread(self) -> Tensor:
        """``[d]`` float32: standard deviations, at least a millionth of the largest."""
        variance = self._squares / self.tokens - (self._sum / self.tokens).square()
        spread = variance.clamp_min(0).sqrt()
        return spread.clamp_min(float(spread.max()) * 1e-6 or 1.0).float()

    @property
    def l0(self) -> float:
        """Mean number of active latents."""
        return self.active / self.tokens


def unigram_tries(examples: Examples) -> dict[int, Trie]:
    """Tries of the examples' last tokens alone; a token's value is its mean activation."""
    found: dict[int, dict[int, list[float]]] = {}
    for latent, token, value in zip(
        examples.latents.tolist(), examples.tokens[:, -1].tolist(), examples.values.tolist(), strict=True
    ):
        found.setdefault(latent, {}).setdefault(token, []).append(value)
    return {
        latent: Trie([Path((token,), False, sum(values) / len(values)) for token, values in tokens.items()])
        for latent, tokens in found.items()
    }


def random_directions(sae: Autoencoder, moments: InputMoments, seed: int) -> SparseAutoencoder:
    """A TopK autoencoder of random unit directions on the input of ``sae``, with the mean subtracted.

    Its latents fire as often as those of ``sae`` on average.
    """
    n = min(sae.n_latents, MOST_RANDOM)
    directions = F.normalize(torch.randn(n, sae.d_in, generator=torch.Generator().manual_seed(seed)), dim=1)
    k = max(1, min(round(moments.l0 * n / sae.n_latents), n))
    return _encoder(directions, moments, k, "random directions", sae)


def channels(sae: Autoencoder, moments: InputMoments) -> SparseAutoencoder:
    """The stream's channels as latents, each with both signs, standardised; as many fire at a token as latents of
    ``sae``."""
    axes = torch.diag(1 / moments.spread)
    k = max(1, min(round(moments.l0), sae.d_in))
    return _encoder(torch.cat([axes, -axes]), moments, k, "channels", sae)


def _encoder(rows: Tensor, moments: InputMoments, k: int, name: str, sae: Autoencoder) -> SparseAutoencoder:
    """An autoencoder that is only used to encode; its decoder is a placeholder."""
    n, d = rows.shape
    rows = rows.to(sae.W_enc.device) if isinstance(sae, SparseAutoencoder) else rows
    mean = moments.mean.to(rows.device)
    info = CheckpointInfo(name, "baseline", "topk", d, d, n, {"name": "topk", "k": k})
    return SparseAutoencoder(
        rows.T, rows, rows.new_zeros(n), rows.new_zeros(d), TopK(k), info, b_pre=mean, scaling=moments.scaling
    )
