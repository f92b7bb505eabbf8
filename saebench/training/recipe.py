"""The parts of Gao et al.'s recipe (section 2 and appendix A; details from the released code)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.sae.sparse_ops import Entries, sum_rows
from saebench.sae.topk import top_k
from saebench.training.mesh import Mesh

ALONE = Mesh()
SHARED = ("b_dec",)
"""Parameters that every shard holds completely."""
BLOCK, PROBE_SEED = 65_536, 999_983
ROWS_AT_ONCE = 1024
"""Rows of a weight matrix that are processed at once, so that intermediate values stay in the processor's cache."""


def geometric_median(points: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point with the least sum of distances to ``points`` (``[count, d]``): ``[d]``, by Weiszfeld's iteration."""
    points = points.double()
    centre = points.mean(dim=0)
    for _ in range(iterations):
        distances = (points - centre).norm(dim=1).clamp_min(1e-12)
        weights = 1 / distances
        moved = (points * weights[:, None]).sum(dim=0) / weights.sum()
        if (moved - centre).norm() <= tolerance * centre.norm().clamp_min(1e-12):
            break
        centre = moved
    median: Tensor = centre.float()
    return median


def initial_decoder(n: int, d: int, seed: int, latents: slice | None = None) -> Tensor:
    """``[n, d]`` random unit vectors, or those of a slice of the latents: block by block, each with its own seed."""
    wanted = latents or slice(0, n)
    parts = []
    for block in range(wanted.start // BLOCK, math.ceil(wanted.stop / BLOCK)):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, n)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + block)
        rows = torch.randn(stop - start, d, generator=generator)
        parts.append(rows[max(wanted.start - start, 0) : wanted.stop - start])
    return F.normalize(torch.cat(parts), dim=1)


def initial_encoder(decoder: Tensor, k: int, seed: int, mesh: Mesh = ALONE) -> Tensor:
    """``[n, d]``: the decoder, divided by the mean norm of its reconstructions of random unit vectors.

    256 unit vectors (relative to the bias) are encoded with the decoder's directions, and their ``k`` largest latents are
    decoded; the division makes initial reconstructions have the scale of the input. ``decoder`` is this shard's slice.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + PROBE_SEED)
    probes = F.normalize(torch.randn(256, decoder.shape[1], generator=generator), dim=1)
    entries, values = largest(probes.to(decoder.device) @ decoder.T, k, mesh)
    reconstructions = mesh.total(sum_rows(entries, values.relu(), decoder), over_replicas=False)
    encoder: Tensor = decoder / reconstructions.norm(dim=1).mean().clamp_min(1e-6)
    return encoder


def largest(pre: Tensor, k: int, mesh: Mesh = ALONE, among: Tensor | None = None) -> tuple[Entries, Tensor]:
    """The ``k`` largest of each row, over all shards: this shard's entries and their values.

    Args:
        pre: ``[tokens, n]``, of this shard's latents; ``among``: indices of those that may be chosen, all by default.
        k: how many; ``mesh``: of the other shards.
    """
    columns = pre if among is None else pre[:, among].contiguous()
    values, indices = top_k(columns, min(mesh.candidates(k), columns.shape[1]))
    if among is not None:
        indices = among[indices]
    if mesh.shards == 1:
        return Entries.regular(indices), values.flatten()
    rows, slots = mesh.kept(values, k).nonzero(as_tuple=True)
    return Entries(rows, indices[rows, slots], pre.shape[0]), values[rows, slots]


def project_out_parallel(decoder: Tensor, gradient: Tensor) -> None:
    """Remove from ``gradient`` its component along each decoder direction (``[n, d]``, unit norm), in place."""
    for block, directions in zip(gradient.split(ROWS_AT_ONCE), decoder.split(ROWS_AT_ONCE), strict=True):
        block.addcmul_(torch.linalg.vecdot(block, directions).unsqueeze(1), directions, value=-1)


def normalise_decoder(decoder: Tensor) -> None:
    """Normalise each decoder direction (``[n, d]``) to unit norm, in place."""
    decoder /= decoder.norm(dim=1, keepdim=True).clamp_min(1e-8)


def default_k_aux(d: int) -> int:
    """The power of two nearest to ``d / 2``."""
    return int(2 ** round(math.log2(max(1.0, d / 2))))


def learning_rate_factor(step: int, steps: int, warmup_steps: int, decay_share: float) -> float:
    """The factor of the learning rate at ``step`` (counted from 0): linear warm-up, and linear decay to 0 at the end."""
    factor = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    decaying = int(steps * decay_share)
    if decaying and step >= steps - decaying:
        factor *= (steps - step) / (decaying + 1)
    return factor


def normalised_error(reconstruction: Tensor, target: Tensor, scale: Tensor | float) -> Tensor:
    """Mean over tokens of ``|reconstruction - target|^2``, divided by ``scale``."""
    return (reconstruction - target).square().sum(dim=1).mean() / scale


def clip_gradients(parameters: Mapping[str, Tensor], largest_norm: float, mesh: Mesh = ALONE) -> None:
    """Scale gradients, in place, so that their global norm is at most ``largest_norm``; parameters that shards share count
    once."""
    gradients = {name: each.grad for name, each in parameters.items() if each.grad is not None}
    squares = {name: torch.linalg.vector_norm(gradient).square() for name, gradient in gradients.items()}
    own = torch.stack([square for name, square in squares.items() if name not in SHARED]).sum()
    norm = (mesh.total(own, over_replicas=False) + sum(squares[name] for name in SHARED if name in squares)).sqrt()
    torch._foreach_mul_(list(gradients.values()), (largest_norm / (norm + 1e-6)).clamp_max(1.0))


class Workspace:
    """One block of memory for large temporary tensors, so that it is allocated once and not at each step."""

    def __init__(self) -> None:
        self._memory: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def take(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Uninitialised ``shape`` of the device and type of ``like``; the next call may return the same memory."""
        size, kind = math.prod(shape), (like.device, like.dtype)
        if kind not in self._memory or self._memory[kind].numel() < size:
            self._memory[kind] = like.new_empty(size)
        return self._memory[kind][:size].view(shape)


class Average:
    """An exponential moving average of tensors with bias correction.

    Attributes:
        decay: weight of the past; ``count``: updates so far.
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self.decay, self.count = decay, 0
        self.sums = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor]) -> None:
        """Update with the current values."""
        self.count += 1
        torch._foreach_lerp_(list(self.sums.values()), [tensors[name] for name in self.sums], 1 - self.decay)

    def value(self) -> dict[str, Tensor]:
        """The averages."""
        correction = 1 - self.decay**self.count
        return {name: total / correction for name, total in self.sums.items()}
