"""Geometry of a dictionary: similarities of its directions, without data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.sae import SparseAutoencoder

EXACT_UP_TO = 32_768
"""Larger dictionaries are evaluated on a seeded sample of this many latents over 4, each against all others."""

CHUNK_ELEMENTS = 2**24
PAIR_BLOCK = 1024
"""Directions in a block of pairs: 4 MiB of cosines, which stay in the processor's cache."""


def alignment(sae: SparseAutoencoder) -> Tensor:
    """``[n]``: cosine between each latent's encoder and decoder direction, whose widths are the same."""
    size = max(1, CHUNK_ELEMENTS // sae.d_in)
    return torch.cat(
        [
            F.cosine_similarity(sae.W_enc[:, start : start + size].T.float(), sae.W_dec[start : start + size].float(), dim=1)
            for start in range(0, sae.n_latents, size)
        ]
    )


def sampled_latents(n: int, seed: int) -> Tensor:
    """Indices of the latents that are evaluated: all up to ``EXACT_UP_TO``, beyond that a seeded sample, in order."""
    if n <= EXACT_UP_TO:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: EXACT_UP_TO // 4].sort().values


def max_similarity(W_dec: Tensor, chosen: Tensor) -> Tensor:
    """``[chosen]``: each chosen latent's largest decoder cosine with another latent, in chunks."""
    if chosen.numel() < W_dec.shape[0]:
        return nearest(W_dec[chosen], direction_chunks(W_dec), own=chosen)[0]
    return _max_similarity_of_all(F.normalize(W_dec.float(), dim=1))


def _max_similarity_of_all(directions: Tensor) -> Tensor:
    """``[n]``: each unit direction's largest cosine with another of them (``[n, d]``); each pair is computed once."""
    n = directions.shape[0]
    largest = torch.full((n,), -1.0, device=directions.device)
    for start in range(0, n, PAIR_BLOCK):
        stop = min(start + PAIR_BLOCK, n)
        for first in range(start, n, PAIR_BLOCK):
            last = min(first + PAIR_BLOCK, n)
            cosines = directions[start:stop] @ directions[first:last].T
            if first == start:
                cosines.fill_diagonal_(-1.0)
            largest[start:stop] = torch.maximum(largest[start:stop], cosines.amax(dim=1))
            largest[first:last] = torch.maximum(largest[first:last], cosines.amax(dim=0))
    return largest.cpu()


def direction_chunks(W_dec: Tensor) -> Iterator[Tensor]:
    """The directions of a dictionary (``[n, d]``), in chunks."""
    yield from W_dec.split(max(1, CHUNK_ELEMENTS // W_dec.shape[1]))


def matched_random_chunks(W_dec: Tensor, n: int, seed: int) -> Iterator[Tensor]:
    """``n`` random directions with the distribution of those of ``W_dec`` (``[m, d]``), in chunks.

    They are Gaussian with the second moments of its unit directions: a random control that has the right subspace, but no
    single feature.
    """
    values, vectors = torch.linalg.eigh(second_moments(W_dec))
    root = (vectors * values.clamp_min(0).sqrt()).float()
    generator = torch.Generator().manual_seed(seed)
    size = max(1, CHUNK_ELEMENTS // W_dec.shape[1])
    for start in range(0, n, size):
        yield torch.randn(min(size, n - start), W_dec.shape[1], generator=generator).to(root.device) @ root.T


def second_moments(W_dec: Tensor) -> Tensor:
    """``[d, d]`` float64: mean outer product of the unit directions."""
    total = torch.zeros(W_dec.shape[1], W_dec.shape[1], dtype=torch.float64, device=W_dec.device)
    for part in direction_chunks(W_dec):
        unit = F.normalize(part.double(), dim=1)
        total += unit.T @ unit
    return total / W_dec.shape[0]


def singular_values(W_dec: Tensor) -> Tensor:
    """``[d]`` float64: singular values of the unit directions over the root of their number, the smallest first."""
    squares: Tensor = torch.linalg.eigvalsh(second_moments(W_dec))
    return squares.clamp_min(0).sqrt().cpu()


def effective_rank(singular: Tensor) -> float | None:
    """Exponential of the entropy of singular values (``[d]``), scaled to sum to 1 (Roy and Vetterli 2007).

    Between 1 (all directions equal) and the smaller of ``n`` and ``d`` (directions spread evenly); None where all are 0.
    """
    if float(singular.sum()) == 0:
        return None
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def nearest(queries: Tensor, chunks: Iterable[Tensor], own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The direction nearest to each query.

    Args:
        queries: ``[m, d]``, of any length.
        chunks: directions, in chunks, ``[some, d]`` each.
        own: ``[m]``: the index over all chunks of the query itself, which is excluded.

    Returns:
        ``(cosines [m] float32, numbers [m])`` on the CPU; -1 and number 0 where there is no direction.
    """
    largest = torch.full((queries.shape[0],), -1.0)
    number = torch.zeros(queries.shape[0], dtype=torch.int64)
    start = 0
    for chunk in chunks:
        columns = F.normalize(chunk.float(), dim=1)
        rows = max(1, CHUNK_ELEMENTS // columns.shape[0])
        for first in range(0, queries.shape[0], rows):
            part = slice(first, first + rows)
            cosines = F.normalize(queries[part].float(), dim=1) @ columns.T
            if own is not None:
                here = (own[part] >= start) & (own[part] < start + columns.shape[0])
                cosines[here.nonzero().flatten(), own[part][here] - start] = -1.0
            best, place = (each.cpu() for each in cosines.max(dim=1))
            number[part] = torch.where(best > largest[part], place + start, number[part])
            largest[part] = torch.maximum(largest[part], best)
        start += columns.shape[0]
    return largest, number
