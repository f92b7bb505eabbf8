"""Texts with common prefixes: each prefix runs through the model once.

A text that is a prefix of another needs no pass of its own: a causal model's activations at its end are in the other's.
Texts that differ after a common prefix, such as those with one token replaced, form a prefix tree. It is run as one
sequence in which each token attends to its ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.lm import Cut
from saebench.lm.batching import batches_by_length
from saebench.lm.bridge import MODEL_ERRORS

END = -1
"""Fills the table's row after a text. Less than any token, so that a prefix sorts before the whole text."""

SMALLEST_PACK = 64
"""Tokens of a tree; three times the length of its texts where that is more. Attention's cost grows with the square."""

TOKENS_PER_BATCH = 2048

WASTE = 128
"""Maximum padding tokens of a batch: about the cost of a separate batch."""


@dataclass(frozen=True)
class Pack:
    """Some texts as one sequence.

    Attributes:
        tokens: ``[nodes]``.
        ends: ``[texts]``, the index of each text's last token.
        positions: ``[nodes]``, and ``visible``: ``[nodes, nodes]`` bool, each node's ancestors and itself; None where the
            sequence is an ordinary text.
    """

    tokens: Tensor
    ends: Tensor
    positions: Tensor | None = None
    visible: Tensor | None = None


class Texts:
    """Different texts in order, each after its prefixes.

    Attributes:
        table: ``[texts, width]``, each followed by ``END``; ``lengths``: ``[texts]``.
        shared: ``[texts]``, the length of each text's common prefix with the one before.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.lengths = (table != END).sum(dim=1)
        common = ((table[1:] == table[:-1]) & (table[1:] != END)).long().cumprod(dim=1).sum(dim=1)
        self.shared = torch.cat([common.new_zeros(min(1, table.shape[0])), common])

    @property
    def maximal(self) -> Tensor:
        """``[texts]`` bool: whether it is not a prefix of another text."""
        whole = torch.ones_like(self.lengths, dtype=torch.bool)
        whole[:-1] = self.shared[1:] < self.lengths[:-1]
        return whole

    def chains(self) -> list[Pack]:
        """One sequence for each text that is not a prefix of another; its prefixes end inside it."""
        last = self.maximal.nonzero().squeeze(1)
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


def batch_packs(packs: list[Pack], most: int) -> list[list[int]]:
    """Indices of packs of similar size for each batch, of at most ``most`` tokens or one pack."""
    return batches_by_length([each.tokens.numel() for each in packs], most, WASTE)


def run_packed(cut: Cut, packs: list[Pack]) -> Tensor:
    """Activations ``[texts, d_in]`` at the last token of each text of ``packs``, run as one batch."""
    size = max(each.tokens.numel() for each in packs)
    rows = torch.arange(len(packs)).repeat_interleave(torch.tensor([each.ends.numel() for each in packs]))
    ends = torch.cat([each.ends for each in packs])
    tokens = torch.zeros(len(packs), size, dtype=torch.int64)
    for row, each in enumerate(packs):
        tokens[row, : each.tokens.numel()] = each.tokens
    if packs[0].visible is None:  # later tokens have no effect on a text
        return cut.inputs_at(tokens, rows, ends)
    positions = torch.zeros_like(tokens)
    visible = torch.eye(size, dtype=torch.bool).repeat(len(packs), 1, 1)  # padding attends to itself alone
    for row, each in enumerate(packs):
        nodes = each.tokens.numel()
        assert each.positions is not None and each.visible is not None
        positions[row, :nodes], visible[row, :nodes, :nodes] = each.positions, each.visible
    return cut.inputs_at(tokens, rows, ends, visible, positions)


def run_texts(cut: Cut, texts: Texts, trees: bool) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Indices of texts, activations (``[some, d_in]`` float32) at their last tokens, and the tokens run, in batches.

    ``trees``: whether texts with common prefixes are run as trees; see ``tree_trouble``.
    """
    known = cut.at_ends(texts.table, texts.lengths)
    if known is not None:
        yield torch.arange(texts.lengths.numel()), known.float(), 0
        return
    packs = texts.trees() if trees else texts.chains()
    numbers = torch.arange(texts.lengths.numel()).split([each.ends.numel() for each in packs])
    for some in batch_packs(packs, TOKENS_PER_BATCH):
        group = [packs[each] for each in some]
        tokens = sum(each.tokens.numel() for each in group)
        yield torch.cat([numbers[each] for each in some]), run_packed(cut, group).float(), tokens


@torch.no_grad()
def tree_trouble(cut: Cut, tokens: Tensor) -> str | None:
    """Why texts cannot be run as trees; None where the model computes a tree as it computes the tree's texts.

    Tested on a text (``tokens``, ``[length]``) and two variants of it.
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
