"""Texts with common beginnings, run as trees: what they share goes through the model once.

Replacing the tokens of a text one at a time gives texts that share their beginnings. Their tree of prefixes has about half
as many nodes as the texts have tokens; it is laid out as one sequence in which each token attends to its ancestors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.lm import Cut

SMALLEST_PACK = 64
"""Tokens laid out together; three times the length of a text where that is more. Attention grows with the square."""

WORTHWHILE = 0.85
"""Packing costs wider attention: it is done where the nodes are fewer than this share of the tokens."""


@dataclass(frozen=True)
class Pack:
    """Some texts as one sequence.

    Attributes:
        tokens, positions: ``[nodes]``; ``visible``: ``[nodes, nodes]`` bool, each node's ancestors and itself.
        ends: ``[texts]``, where each text's last token lies.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    ends: Tensor


def shared_beginnings(texts: Tensor) -> Tensor:
    """``[texts]``: tokens that each of the sorted, different ``texts`` (``[texts, length]``) shares with the one before."""
    same = (texts[1:] == texts[:-1]).long().cumprod(dim=1).sum(dim=1)
    return torch.cat([same.new_zeros(min(1, texts.shape[0])), same])


def worth_packing(texts: Tensor) -> bool:
    """Whether the tree of sorted, different ``texts`` (``[texts, length]``) is enough smaller than they are."""
    return texts.numel() - int(shared_beginnings(texts).sum()) < WORTHWHILE * texts.numel()


def pack(texts: Tensor) -> list[Pack]:
    """Lay sorted, different ``texts`` (``[texts, length]``) out as trees, in order, in packs of bounded size."""
    n_texts, length = texts.shape
    most = max(SMALLEST_PACK, 3 * length)
    packs: list[Pack] = []
    start, size = 0, 0
    shared = shared_beginnings(texts).tolist()
    for number in range(n_texts):
        new = length - shared[number]
        if size and size + new > most:
            packs.append(_tree(texts[start:number], shared[start:number]))
            start, size = number, 0
        size += new if size else length
    if n_texts:
        packs.append(_tree(texts[start:], shared[start:]))
    return packs


def _tree(texts: Tensor, shared: list[int]) -> Pack:
    length = texts.shape[1]
    shared = [0, *shared[1:]]
    size = len(shared) * length - sum(shared)
    visible = np.zeros((size, size), dtype=bool)
    below = np.tril(np.ones((length, length), dtype=bool))
    path = np.zeros(length, dtype=np.int64)  # the nodes of the current text
    ends, used = [], 0
    for common in shared:
        new = np.arange(used, used + length - common)
        path[common:] = new
        visible[np.ix_(new, path[:common])] = True
        visible[used : used + new.size, used : used + new.size] = below[: new.size, : new.size]
        used += new.size
        ends.append(used - 1)
    fresh = torch.arange(length) >= torch.tensor(shared).unsqueeze(1)
    positions = torch.arange(length).expand(len(shared), length)[fresh]
    return Pack(texts[fresh], positions, torch.from_numpy(visible), torch.tensor(ends))


def run_packed(cut: Cut, packs: list[Pack]) -> Tensor:
    """Activations ``[texts, d_in]`` at the last token of each text of ``packs``, which go through the model together."""
    size = max(each.tokens.numel() for each in packs)
    tokens = torch.zeros(len(packs), size, dtype=torch.int64)
    positions = torch.zeros_like(tokens)
    visible = torch.eye(size, dtype=torch.bool).repeat(len(packs), 1, 1)  # what pads a pack sees itself alone
    for row, each in enumerate(packs):
        nodes = each.tokens.numel()
        tokens[row, :nodes], positions[row, :nodes] = each.tokens, each.positions
        visible[row, :nodes, :nodes] = each.visible
    inputs = cut.prefix(tokens, visible, positions).inputs
    rows = torch.arange(len(packs)).repeat_interleave(torch.tensor([each.ends.numel() for each in packs]))
    return inputs[rows, torch.cat([each.ends for each in packs])]


@torch.no_grad()
def heeds_trees(cut: Cut, tokens: Tensor) -> bool:
    """Whether the model computes trees as it computes their texts, tried on a text (``[length]``) and two variants of it."""
    texts = tokens.repeat(3, 1)
    texts[1, tokens.numel() // 2] = tokens[0]
    texts[2, -1] = tokens[0]
    texts = torch.unique(texts, dim=0)
    plain = cut.prefix(texts).inputs[:, -1].float()
    try:
        tree = run_packed(cut, pack(texts)).float()
    except Exception:  # whatever an architecture makes of a mask that it does not know, its texts can be run one by one
        return False
    return bool((tree - plain).norm() <= 1e-3 * plain.norm())
