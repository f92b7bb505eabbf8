"""Binary problems: which texts a probe is trained and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Texts of a probe, in random order: ``rows`` ``[texts]`` int64 and ``labels`` ``[texts]`` of 0 and 1."""

    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Problem:
    """A binary problem: training and test texts."""

    train: Split
    test: Split


def one_against_rest(sizes: dict[str, int], start: int, name: str, generator: torch.Generator) -> Split:
    """All texts of a class, and as many of the others, equally many of each of them.

    Args:
        sizes: texts by class, which come one class after another from row ``start`` on.
        start: see ``sizes``.
        name: the class.
        generator: which texts of the others are used, and the order.
    """
    starts, place = {}, start
    for each, size in sizes.items():
        starts[each] = place
        place += size
    own = torch.arange(starts[name], starts[name] + sizes[name])
    others = [each for each in sizes if each != name]
    each_has = -(-sizes[name] // len(others))
    drawn = [starts[each] + torch.randperm(sizes[each], generator=generator)[:each_has] for each in others]
    rest = torch.cat(drawn)
    return shuffled(own, rest[torch.randperm(rest.numel(), generator=generator)[: own.numel()]], generator)


def shuffled(positive: Tensor, negative: Tensor, generator: torch.Generator) -> Split:
    """Rows of label 1 and of label 0 in one random order."""
    order = torch.randperm(positive.numel() + negative.numel(), generator=generator)
    labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)])
    return Split(torch.cat([positive, negative])[order], labels[order])
