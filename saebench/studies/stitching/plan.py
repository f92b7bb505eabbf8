"""The path from a smaller autoencoder to a larger one, in steps (Leask et al. 2025, section on stitching).

A latent of the larger autoencoder whose decoder direction has a cosine above the threshold with one of the smaller is a
reconstruction latent, else a novel one. Latents of both that are connected by such cosines (connected components of the
graph) are swapped in one step. Steps come in three phases. Their order depends on the directions alone, not on the data
that are then used to measure the path:

1. each novel latent is inserted, the least similar first;
2. each group is swapped, the most similar first;
3. each small latent without a counterpart is removed, the most similar first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.studies.stitching.similarity import Similarity, connected_groups

INSERT, SWAP, REMOVE = 0, 1, 2
PHASES = ("insert", "swap", "remove")


@dataclass(frozen=True)
class StitchPlan:
    """Which latent is inserted or removed at which step. Step 0 is the smaller autoencoder, the last the larger.

    Attributes:
        n_small: latents of the smaller autoencoder; ``n_large`` of the larger.
        step: ``[n_small + n_large]`` int64, from 1: when each small latent is removed and each large one inserted.
        kind: ``[steps]`` int64: ``INSERT``, ``SWAP`` or ``REMOVE``.
        leaving: ``[steps]`` int64, number of small latents removed at each step; ``arriving``: of large ones inserted.
    """

    n_small: int
    n_large: int
    step: Tensor
    kind: Tensor
    leaving: Tensor
    arriving: Tensor

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.kind.numel()

    @property
    def share(self) -> Tensor:
        """``[steps + 1]`` float64: the share of all latents that were inserted or removed after each step, from 0 to 1."""
        changed = torch.cat([torch.zeros(1, dtype=torch.int64), (self.leaving + self.arriving).cumsum(0)])
        return changed.double() / (self.n_small + self.n_large)

    def phase_ends(self) -> list[int]:
        """The last step of each of the three phases; equal to the one before where a phase is empty."""
        return torch.bincount(self.kind, minlength=3).cumsum(0).tolist()

    @property
    def novel(self) -> Tensor:
        """``[n_large]`` bool: the large latents that have no counterpart."""
        return self.kind[self.step[self.n_small :] - 1] == INSERT

    @property
    def orphaned(self) -> Tensor:
        """``[n_small]`` bool: the small latents that have no counterpart."""
        return self.kind[self.step[: self.n_small] - 1] == REMOVE


def make_plan(similarity: Similarity) -> StitchPlan:
    """Order the steps by phase and cosine; ties by number, so that the plan is the same every time."""
    n_small, n_large = similarity.small_best.numel(), similarity.large_best.numel()
    group = connected_groups(n_small, n_large, similarity.pairs)
    groups = int(group.max()) + 1
    leaving = torch.bincount(group[:n_small], minlength=groups)
    arriving = torch.bincount(group[n_small:], minlength=groups)
    kind = torch.full((groups,), SWAP)
    kind[leaving == 0] = INSERT
    kind[arriving == 0] = REMOVE
    cosines = torch.cat([similarity.small_best, similarity.large_best]).double()
    mean = torch.zeros(groups, dtype=torch.float64).index_add_(0, group, cosines) / (leaving + arriving)
    by_cosine = torch.where(kind == INSERT, mean, -mean).argsort(stable=True)
    order = by_cosine[kind[by_cosine].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(1, groups + 1)
    return StitchPlan(n_small, n_large, place[group], kind[order], leaving[order], arriving[order])
