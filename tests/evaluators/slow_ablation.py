"""Ablations the plain way: the whole plain transformers model is run again for each, and numpy does the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.sae import SparseAutoencoder


@torch.no_grad()
def run_with_residual(plain: Any, layer: int, tokens: Tensor, replacement: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(logits [position, V], block's output [position, d])``, with the block's output replaced where one is given."""
    blocks = next(module for module in plain.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > layer)
    seen: list[Tensor] = []

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output if replacement is None else replacement.unsqueeze(0)

    handle = blocks[layer].register_forward_hook(hook)
    logits: Tensor = plain(tokens.unsqueeze(0)).logits[0]
    handle.remove()
    return logits, seen[0][0]


@torch.no_grad()
def ablate(
    plain: Any, layer: int, sae: SparseAutoencoder, tokens: Tensor, excluded: Tensor, position: int, horizon: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Sparsity by latent of all that are active at ``position``, and by residual channel, in a row of ``tokens``."""
    clean_logits, clean = run_with_residual(plain, layer, tokens, None)
    latents = sae.encode(clean)
    spliced = torch.where(excluded.unsqueeze(1), clean, sae.decode(latents, clean))
    reference, _ = run_with_residual(plain, layer, tokens, spliced)
    by_latent = {}
    for index, value in zip(latents.indices[position].tolist(), latents.values[position].tolist(), strict=True):
        if value != 0:
            changed = spliced.clone()
            scale = 1.0 if latents.factor is None else float(latents.factor[position])
            changed[position] -= value * sae.W_dec[index] * scale
            logits, _ = run_with_residual(plain, layer, tokens, changed)
            by_latent[index] = measure(logits - reference, position, horizon)
    by_channel = {}
    for channel in range(0, clean.shape[1], max(1, clean.shape[1] // 4)):
        changed = clean.clone()
        changed[position, channel] = 0
        logits, _ = run_with_residual(plain, layer, tokens, changed)
        by_channel[channel] = measure(logits - clean_logits, position, horizon)
    return by_latent, by_channel


def measure(difference: Tensor, position: int, horizon: int) -> float:
    change = difference[position : position + horizon].double().numpy()
    change = change - np.median(change, axis=1, keepdims=True)
    return float(np.abs(change).sum() ** 2 / (change**2).sum() / change.size)
