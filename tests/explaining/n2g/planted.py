"""A model whose activations are its tokens, so that a latent can be planted that fires exactly where one wants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.lm import LanguageModel, Prefix
from saebench.sae import CheckpointInfo, ReLU, SparseAutoencoder

VOCABULARY = 200


class TokensAsActivations:
    """Stands for a ``Cut``: at each position the token and the one before, one-hot. It looks at nothing else."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.d_in = self.d_out = 2 * VOCABULARY

    def prefix(self, tokens: Tensor, visible: Tensor | None = None, positions: Tensor | None = None) -> Prefix:
        own = F.one_hot(tokens, VOCABULARY)
        before = F.pad(own, (0, 0, 1, 0))[:, :-1]
        activations = torch.cat([own, before], dim=-1).float()
        return Prefix(tokens, activations, activations, activations)

    def inputs_at(
        self, tokens: Tensor, rows: Tensor, places: Tensor, visible: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return self.prefix(tokens).inputs[rows, places]

    def at_ends(self, table: Tensor, lengths: Tensor) -> None:
        return None


def planted_sae() -> SparseAutoencoder:
    """Latent 0 fires on token 10, latent 1 on the bigram 20 21, latent 2 never, latent 3 on token 30 or 31."""
    weights, bias = torch.zeros(2 * VOCABULARY, 4), torch.zeros(4)
    weights[10, 0] = 2.0
    weights[21, 1] = weights[VOCABULARY + 20, 1] = 2.0
    bias[1] = -2.5
    bias[2] = -1.0
    weights[30, 3] = weights[31, 3] = 1.0
    info = CheckpointInfo("planted", "saebench", "relu", 2 * VOCABULARY, 2 * VOCABULARY, 4, {})
    return SparseAutoencoder(weights, weights.T.contiguous(), bias, torch.zeros(2 * VOCABULARY), ReLU(), info)


def planted_rows(rows: int, context: int, seed: int) -> Tensor:
    """Random tokens, begun by BOS, in which the planted n-grams are frequent, and so are their parts."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(40, VOCABULARY, (rows, context), generator=generator)
    frequent = torch.randint(0, 5, (rows, context), generator=generator)
    for place, token in enumerate((10, 20, 21, 30)):
        tokens[(frequent == place) & (torch.rand(rows, context, generator=generator) < 0.4)] = token
    tokens[:, 4], tokens[:, 5] = 20, 21
    tokens[:, 0] = 1
    return tokens
