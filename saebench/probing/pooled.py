"""Texts' activations and latents, pooled over each text's tokens; latents stay sparse and texts come in blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from saebench.lm import Cut
from saebench.probing.activations import TextActivations, activations_key, text_activations
from saebench.probing.protocol import Pooling, TextLimits
from saebench.probing.values import pool
from saebench.results import canonical_hash
from saebench.sae import Autoencoder, SparseAutoencoder

TEXTS_PER_BLOCK = 1024
"""Texts whose activations are in memory at once, and in one file of the cache."""
TEXTS_PER_CODE = 128
"""Texts that are encoded at once."""


@dataclass(frozen=True)
class PooledTexts:
    """Some texts, pooled.

    Attributes:
        activations: ``[texts, d_in]`` float32: the autoencoder's input.
        latents: ``[texts, n]`` float32: its code; None where there is no autoencoder.
        truncated: texts that were longer than allowed.
    """

    activations: Tensor
    latents: csr_array | None
    truncated: int


def pooled_texts(
    cut: Cut, texts: Sequence[str], limits: TextLimits, pooling: Pooling, bos: bool, sae: Autoencoder | None,
    advance: Callable[[float], None], scaled: bool = False,
) -> PooledTexts:  # fmt: skip
    """Run texts through the layers below the hook (or read the cache), pool them, and encode them.

    Args:
        cut: the language model at the hook; ``limits``, ``pooling``, ``bos``, ``advance`` as ``task_activations`` has them.
        texts: the texts.
        sae: encodes every pooled token; its values are pooled.
        scaled: whether latents are in the activations' units, where the autoencoder scales its input token by token.
    """
    means, codes, truncated = [], [], 0
    for start in range(0, len(texts), TEXTS_PER_BLOCK):
        block = texts[start : start + TEXTS_PER_BLOCK]
        found = text_activations(cut, block, _hash(block), limits, pooling, bos, advance)
        means.append(pool(found.rows, found.owner, len(block), pooling))
        if sae is not None:
            codes.append(pooled_latents(sae, found, len(block), pooling, scaled))
        truncated += found.truncated
    return PooledTexts(torch.cat(means), csr_array(vstack(codes)) if codes else None, truncated)


def pooled_key(cut: Cut, texts: Sequence[str], limits: TextLimits, pooling: Pooling, bos: bool) -> str | None:
    """Hash of everything that determines the pooled activations; None for a model without a known identity."""
    if "@unknown/" in cut.model.identity:
        return None
    return canonical_hash({"key": activations_key(cut, _hash(texts), limits, pooling, bos), "pooling": pooling})


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def pooled_latents(
    sae: Autoencoder, found: TextActivations, texts: int, pooling: Pooling, scaled: bool = False
) -> csr_array:
    """``[texts, n]`` float32: the mean over each text's tokens, or the values of its last token."""
    if pooling == "max":
        raise ValueError("latents are pooled as a mean, or at the last token")
    device = sae.W_enc.device if isinstance(sae, SparseAutoencoder) else found.rows.device
    per_text = torch.bincount(found.owner, minlength=texts).clamp_min(1)
    ends = per_text.cumsum(0)
    parts = []
    for start in range(0, texts, TEXTS_PER_CODE):
        stop = min(start + TEXTS_PER_CODE, texts)
        span = slice(int(ends[start] - per_text[start]), int(ends[stop - 1]))
        code = sae.encode(found.rows[span].to(device))
        values = code.values.float()
        if scaled and code.factor is not None:
            values = values * code.factor.float()
        token, slot = code.active.nonzero(as_tuple=True)
        owner = found.owner[span][token.cpu()]
        weights = (values[token, slot].cpu().double() / per_text[owner]).numpy()
        places = ((owner - start).numpy(), code.indices[token, slot].cpu().numpy())
        summed = csr_array((weights, places), shape=(stop - start, sae.n_latents))  # entries of one place are added
        parts.append(summed.astype(np.float32))
    return csr_array(vstack(parts))
