"""Texts with common beginnings: what they share goes through the model once.

A text that another begins with needs no pass of its own: a causal model's activations at its end are in the other's. Texts
that part from each other, as those do in which one token at a time is replaced, form a tree of prefixes; it is laid out as
one sequence in which each token attends to its ancestors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.lm import Cut
from saebench.lm.batching import batches_by_length
from saebench.lm.bridge import MODEL_ERRORS

END = -1
"""Behind a text, up to the width of the table that it stands in. Less than any token: a beginning sorts before the whole."""

SMALLEST_PACK = 64
"""Tokens of a tree; three times the length of its texts where that is more. Attention grows with the square."""

WASTE = 128
"""Tokens of filling that a batch may have: about what a batch of its own would cost."""


@dataclass(frozen=True)
class Pack:
    """Some texts as one sequence.

    Attributes:
        tokens: ``[nodes]``.
        ends: ``[texts]``, where each text's last token lies.
        positions: ``[nodes]``, and ``visible``: ``[nodes, nodes]`` bool, each node's ancestors and itself; None where the
            sequence is a text as any other.
    """

    tokens: Tensor
    ends: Tensor
    positions: Tensor | None = None
    visible: Tensor | None = None


class Texts:
    """Different texts in order, each behind those that it begins with.

    Attributes:
        table: ``[texts, width]``, each followed by ``END``; ``lengths``: ``[texts]``.
        shared: ``[texts]``, how many tokens each has in common with the one before.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.lengths = (table != END).sum(dim=1)
        common = ((table[1:] == table[:-1]) & (table[1:] != END)).long().cumprod(dim=1).sum(dim=1)
        self.shared = torch.cat([common.new_zeros(min(1, table.shape[0])), common])

    @property
    def whole(self) -> Tensor:
        """``[texts]`` bool: whether no other text goes on from it."""
        whole = torch.ones_like(self.lengths, dtype=torch.bool)
        whole[:-1] = self.shared[1:] < self.lengths[:-1]
        return whole

    def chains(self) -> list[Pack]:
        """One sequence for each text that no other goes on from; those that it begins with end inside it."""
        last = self.whole.nonzero().squeeze(1)
        first = torch.cat([last.new_zeros(1), last + 1]).tolist()
        lengths = self.lengths.tolist()
        return [
            Pack(self.table[number, : lengths[number]], self.lengths[start : number + 1] - 1)
            for start, number in zip(first, last.tolist(), strict=False)
        ]

    def trees(self) -> list[Pack]:
        """All texts, in order, as trees of bounded size."""
        packs: list[Pack] = []
        start, size, longest = 0, 0, 0
        lengths, shared = self.lengths.tolist(), self.shared.tolist()
        for number, length in enumerate(lengths):
            longest = max(longest, length)
            if size and size + length - shared[number] > max(SMALLEST_PACK, 3 * longest):
                packs.append(self._tree(start, number))
                start, size, longest = number, 0, length
            size += length - shared[number] if size else length
        if lengths:
            packs.append(self._tree(start, len(lengths)))
        return packs

    def _tree(self, start: int, stop: int) -> Pack:
        lengths = self.lengths[start:stop]
        shared = self.shared[start:stop].clone()
        shared[0] = 0
        size = int((lengths - shared).sum())
        visible = np.zeros((size, size), dtype=bool)
        path = np.zeros(self.table.shape[1], dtype=np.int64)  # the nodes of the current text
        ends, used = [], 0
        for length, common in zip(lengths.tolist(), shared.tolist(), strict=True):
            new = np.arange(used, used + length - common)
            path[common:length] = new
            visible[np.ix_(new, path[:common])] = True
            visible[used : used + new.size, used : used + new.size] = np.tri(new.size, dtype=bool)
            used += new.size
            ends.append(path[length - 1])
        places = torch.arange(self.table.shape[1]).expand(stop - start, -1)
        fresh = (places >= shared.unsqueeze(1)) & (places < lengths.unsqueeze(1))
        return Pack(self.table[start:stop][fresh], torch.tensor(ends), places[fresh], torch.from_numpy(visible))


def together(packs: list[Pack], most: int) -> list[list[int]]:
    """Numbers of packs of like size that go through the model together, ``most`` tokens or one pack at most."""
    return batches_by_length([each.tokens.numel() for each in packs], most, WASTE)


def run_packed(cut: Cut, packs: list[Pack]) -> Tensor:
    """Activations ``[texts, d_in]`` at the last token of each text of ``packs``, which go through the model together."""
    size = max(each.tokens.numel() for each in packs)
    rows = torch.arange(len(packs)).repeat_interleave(torch.tensor([each.ends.numel() for each in packs]))
    ends = torch.cat([each.ends for each in packs])
    tokens = torch.zeros(len(packs), size, dtype=torch.int64)
    for row, each in enumerate(packs):
        tokens[row, : each.tokens.numel()] = each.tokens
    if packs[0].visible is None:  # what stands behind a text has no effect on it
        return cut.inputs_at(tokens, rows, ends)
    positions = torch.zeros_like(tokens)
    visible = torch.eye(size, dtype=torch.bool).repeat(len(packs), 1, 1)  # what pads a pack sees itself alone
    for row, each in enumerate(packs):
        nodes = each.tokens.numel()
        assert each.positions is not None and each.visible is not None
        positions[row, :nodes], visible[row, :nodes, :nodes] = each.positions, each.visible
    return cut.inputs_at(tokens, rows, ends, visible, positions)


@torch.no_grad()
def tree_trouble(cut: Cut, tokens: Tensor) -> str | None:
    """Why texts cannot be run as trees; None where the model computes a tree as it computes the tree's texts.

    It is tried on a text (``tokens``, ``[length]``) and two variants of it.
    """
    table = tokens.repeat(3, 1)
    table[1, tokens.numel() // 2] = tokens[0]
    table[2, -1] = tokens[0]
    texts = Texts(torch.unique(table, dim=0))
    plain = cut.prefix(texts.table).inputs[:, -1].float()
    try:
        tree = run_packed(cut, texts.trees()).float()
    except MODEL_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    difference = float((tree - plain).norm() / plain.norm())
    return None if difference <= 1e-3 else f"its activations differ by {difference:.1e}"
