"""Cosines between the directions of two dictionaries, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**24


class Similarity(NamedTuple):
    """Cosines between the directions of a smaller (``[n_small, d]``) and a larger dictionary (``[n_large, d]``).

    Attributes:
        small_best: ``[n_small]``, each small direction's largest cosine with a large one.
        large_best: ``[n_large]``, each large direction's largest cosine with a small one; ``nearest``: ``[n_large]``, the
            index of that small direction.
        pairs: ``[2, pairs]``, small and large numbers of the pairs above the threshold.
    """

    small_best: Tensor
    large_best: Tensor
    nearest: Tensor
    pairs: Tensor


def compare_directions(small: Tensor, large: Tensor, threshold: float) -> Similarity:
    """Compare every direction of ``small`` with every one of ``large``; nothing of size ``n_small * n_large`` is kept.

    A direction of length 0 has cosine 0 with everything.
    """
    unit_small = F.normalize(small.float(), dim=1)
    small_best = torch.full((small.shape[0],), -1.0, device=small.device)
    large_best, nearest, pairs = [], [], []
    width = max(1, CHUNK_ELEMENTS // max(small.shape[0], small.shape[1]))
    for start in range(0, large.shape[0], width):
        cosines = unit_small @ F.normalize(large[start : start + width].float(), dim=1).T
        small_best = torch.maximum(small_best, cosines.amax(dim=1))
        best = cosines.max(dim=0)
        large_best.append(best.values)
        nearest.append(best.indices)
        found = (cosines > threshold).nonzero().T
        pairs.append(torch.stack([found[0], found[1] + start]))
    return Similarity(
        small_best.clamp(-1, 1).cpu(),
        torch.cat(large_best).clamp(-1, 1).cpu(),
        torch.cat(nearest).cpu(),
        torch.cat(pairs, 1).cpu(),
    )


def connected_groups(n_small: int, n_large: int, pairs: Tensor) -> Tensor:
    """``[n_small + n_large]`` int64: the connected component of each small, then each large, direction.

    Args:
        n_small: number of small directions; ``n_large`` of large ones.
        pairs: ``[2, pairs]``, which small direction is connected with which large one.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = n_small + n_large
    rows, columns = pairs[0].numpy(), pairs[1].numpy() + n_small
    graph = coo_array((np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return torch.from_numpy(labels.astype(np.int64))
