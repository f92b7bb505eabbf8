"""Geometry of a dictionary: how its directions lie to each other, without any data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.sae import SparseAutoencoder
from saebench.statistics import Estimate

EXACT_UP_TO = 32_768
"""Larger dictionaries are judged on a seeded sample of this many latents over 4, each against all others."""

CHUNK_ELEMENTS = 2**24


def encoder_decoder_cosine(sae: SparseAutoencoder) -> Estimate:
    """Mean over latents of the cosine between encoder and decoder direction; null where their widths differ."""
    if sae.d_in != sae.d_out:
        return Estimate(None, None)
    size = max(1, CHUNK_ELEMENTS // sae.d_in)
    cosines = torch.cat(
        [
            F.cosine_similarity(sae.W_enc[:, start : start + size].T.float(), sae.W_dec[start : start + size].float(), dim=1)
            for start in range(0, sae.n_latents, size)
        ]
    )
    return mean_estimate(cosines)


def decoder_similarity(W_dec: Tensor, seed: int) -> tuple[Estimate, int]:
    """Mean over latents of the largest cosine between its decoder direction (``[n, d]``) and another latent's.

    Exact for every latent up to ``EXACT_UP_TO``; beyond, exact for a seeded sample.

    Returns:
        The estimate and how many latents it is over.
    """
    n = W_dec.shape[0]
    if n < 2:
        return Estimate(None, None), 0
    chosen = torch.arange(n)
    if n > EXACT_UP_TO:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: EXACT_UP_TO // 4].sort().values
    largest = max_similarity(W_dec, chosen)
    return mean_estimate(largest, population=n), chosen.numel()


def max_similarity(W_dec: Tensor, chosen: Tensor) -> Tensor:
    """``[chosen]``: each chosen latent's largest decoder cosine with another latent, in chunks."""
    n, d = W_dec.shape
    width = max(1, min(n, CHUNK_ELEMENTS // d))
    largest = torch.full((chosen.numel(),), -1.0)
    for start in range(0, n, width):
        columns = F.normalize(W_dec[start : start + width].float(), dim=1)
        rows = max(1, CHUNK_ELEMENTS // columns.shape[0])
        for first in range(0, chosen.numel(), rows):
            queries = chosen[first : first + rows]
            cosines = F.normalize(W_dec[queries].float(), dim=1) @ columns.T
            own = (queries >= start) & (queries < start + columns.shape[0])
            cosines[own.nonzero().flatten(), queries[own] - start] = -1.0
            best = cosines.amax(dim=1).cpu()
            largest[first : first + rows] = torch.maximum(largest[first : first + rows], best)
    return largest


def mean_estimate(values: Tensor, population: int | None = None) -> Estimate:
    """Mean of ``values`` with its standard error, 0 where they are the whole ``population``."""
    count = values.numel()
    if count == 0:
        return Estimate(None, None)
    if population is not None and population == count:
        return Estimate(float(values.double().mean()), 0.0)
    error = float(values.double().std()) / count**0.5 if count > 1 else None
    return Estimate(float(values.double().mean()), error)
