"""Ranks on two axes: a batch is distributed to replicas, the latents to shards (Gao et al. 2024, released code).

Each shard holds a slice of the latents with its optimiser state. Per step the ranks exchange the candidates' values of
the top-k, the partial reconstructions (summed forward, copied backward) and the bias's gradient (copied forward, summed
backward); replicas exchange gradients. One process is a mesh of one rank, which exchanges nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, by an optimiser, it would hold the group of all ranks for good
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from saebench.errors import SaebenchError


@dataclass(frozen=True)
class Mesh:
    """This rank's position in the mesh.

    Attributes:
        shards: number of slices of the latents; ``shard``: index of this rank's.
        replicas: number of parts of the batch; ``replica``: index of this rank's.
        groups: process groups by axis: of ``shards`` (ranks with this part of the batch) and of ``replicas`` (ranks with
            this slice of the latents).
    """

    shards: int = 1
    shard: int = 0
    replicas: int = 1
    replica: int = 0
    groups: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def writes(self) -> bool:
        """Whether this rank prints and writes for all."""
        return self.shard == 0 and self.replica == 0

    def latents(self, n: int) -> slice:
        """This rank's slice of ``n`` latents.

        Raises:
            SaebenchError: there are fewer latents than shards.
        """
        if n < self.shards:
            raise SaebenchError(f"{n} latents cannot be distributed to {self.shards} shards: use fewer shards.")
        return slice(n * self.shard // self.shards, n * (self.shard + 1) // self.shards)

    def part(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch."""
        rows = batch.shape[0] // self.replicas
        return batch[self.replica * rows : (self.replica + 1) * rows] if self.replicas > 1 else batch

    def sum_over_shards(self, partial: Tensor) -> Tensor:
        """The sum of the shards' ``partial``; its gradient is passed to each of them unchanged."""
        if self.shards == 1:
            return partial
        total: Tensor = _Sum.apply(partial, self.groups["shards"])  # type: ignore[no-untyped-call]
        return total

    def to_shards(self, shared: Tensor) -> Tensor:
        """``shared`` unchanged; the gradients from the shards are summed."""
        if self.shards == 1:
            return shared
        copied: Tensor = _Copy.apply(shared, self.groups["shards"])  # type: ignore[no-untyped-call]
        return copied

    def total(self, value: Tensor, over_shards: bool = True, over_replicas: bool = True) -> Tensor:
        """Sum over ranks, without gradient."""
        value = value.detach().clone()
        if over_shards and self.shards > 1:
            dist.all_reduce(value, group=self.groups["shards"])
        if over_replicas and self.replicas > 1:
            dist.all_reduce(value, group=self.groups["replicas"])
        return value

    def mean_over_replicas(self, value: Tensor) -> Tensor:
        """Mean over the parts of the batch, without gradient."""
        return self.total(value, over_shards=False) / self.replicas

    def candidates(self, k: int) -> int:
        """The number of largest values per token that a shard proposes: exact up to four shards, as published for more.

        With many shards a token whose k largest latents are concentrated in one shard may lose some of them.
        """
        return min(k, math.ceil(4 * k / self.shards))

    def kept(self, values: Tensor, k: int) -> Tensor:
        """Which of the shards' candidates are among the ``k`` largest of all: bool like ``values`` (``[tokens, <= k]``)."""
        width = self.candidates(k)
        padded = values.new_full((values.shape[0], width), -math.inf)
        padded[:, : values.shape[1]] = values
        everywhere = [torch.empty_like(padded) for _ in range(self.shards)]
        dist.all_gather(everywhere, padded, group=self.groups["shards"])
        offered = torch.cat(everywhere, dim=1)
        cut = offered.topk(min(k, offered.shape[1]), dim=1).values[:, -1:]
        return (values >= cut) & (values > -math.inf)

    def cut_of_batch(self, values: Tensor, wanted: int) -> float:
        """The ``wanted``-th largest of all ranks' ``values``, by bisection on counts: exact, whatever their number."""
        if self.shards == self.replicas == 1:
            return float(values.topk(min(wanted, values.numel()), sorted=False).values.min())
        keys = _ordered(values)
        low, high = -(2**31), 2**31 - 1  # the largest key that at least ``wanted`` values reach is between them
        while low < high:
            middle = (low + high + 1) // 2
            reached = int(self.total((keys >= middle).sum()))
            low, high = (middle, high) if reached >= wanted else (low, middle - 1)
        return float(_value_of(low))

    def barrier_of_shards(self) -> None:
        """Wait for the shards that have this part of the batch."""
        if self.shards > 1:
            dist.barrier(group=self.groups["shards"])

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.shards * self.replicas > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the communication with the other ranks; nothing can be exchanged afterwards.

        No reference to a group is kept, so that the threads of its backend end here: one that still releases a tensor
        while Python exits aborts the process (SIGABRT), and torchrun then stops the other ranks.
        """
        if self.groups:
            self.groups.clear()
            dist.destroy_process_group()


def _ordered(values: Tensor) -> Tensor:
    """int64 keys in the order of float32 ``values``."""
    bits = values.float().view(torch.int32).long()
    return torch.where(bits >= 0, bits, -(2**31) - bits)


def _value_of(key: int) -> float:
    bits = key if key >= 0 else -(2**31) - key
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Any) -> Tensor:
        total = partial.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return shared.view_as(shared)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def join_mesh(shards: int) -> Mesh:
    """The mesh of the processes that ``torchrun`` started; one rank where there are no others.

    Raises:
        SaebenchError: the processes cannot be distributed to so many shards.
    """
    if not dist.is_torchelastic_launched():
        if shards > 1:
            raise SaebenchError(
                f"{shards} shards need at least {shards} processes: start them with torchrun --nproc-per-node."
            )
        return Mesh()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    world = dist.get_world_size()
    if world % shards:
        raise SaebenchError(f"{world} processes cannot be distributed to {shards} shards: choose a divisor.")
    axes = init_device_mesh(device, (world // shards, shards), mesh_dim_names=("replicas", "shards"))
    replica, shard = axes.get_local_rank("replicas"), axes.get_local_rank("shards")
    groups = {axis: axes.get_group(axis) for axis in ("shards", "replicas")}
    return Mesh(shards, shard, world // shards, replica, groups)
