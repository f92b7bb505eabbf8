"""The whole path from the smaller to the larger autoencoder, measured in one pass over a text.

A token's residual changes only at the steps that insert or remove one of its active latents: some dozens of the
thousands of steps. With ``u`` the residual under the smaller one's base and ``b`` the change of base (both ``[d]``), the
error after a step that leaves the share ``a`` of all latents changed is ``|u - a b|^2 = |u|^2 - 2 a u.b + a^2 |b|^2``;
``|u|^2`` and ``u.b`` are constant between a token's own steps. Their changes are added at the first measured point that
is not before the step, and cumulated along the path at the end of each batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, TokenBlock
from saebench.results import EvaluatorResult
from saebench.results.statistics import RowSums
from saebench.sae import SparseLatents
from saebench.sae.sparse_ops import Entries, dot_rows, sum_rows
from saebench.studies.stitching.mixtures import Stitched

UNITS = ("raw", "unit_norm")
"""How tokens are weighted: equally, or each divided by its squared norm about its own mean (Gao et al. 2024, 2.1)."""
CHANGE_ELEMENTS = 2**23


class StitchPath(StreamingEvaluator):
    """Error and L0 at points along the path, and the effect of each latent and each step alone on the smaller autoencoder.

    Attributes:
        points: ``[points]`` int64, the steps at which the path is measured, 0 and the last among them.
        sums: row sums of ``tokens``, of the larger autoencoder's own squared error ``end``, and at each point ``i`` of
            ``raw.i``, ``unit_norm.i`` (squared errors) and ``l0.i``.
        inserted: for each large latent, the change of squared error when it alone is inserted.
        stepped: for each step, the change of squared error when it alone is taken.
    """

    name = "stitch_path"
    description = "Reconstruction error along the path from one autoencoder to another"

    def __init__(self, setup: Setup, points: Tensor) -> None:
        super().__init__(setup)
        assert isinstance(setup.sae, Stitched) and setup.sae.step == 0
        self.stitched, self.points = setup.sae, points
        self.plan, self.pair = setup.sae.plan, setup.sae.pair
        count = points.numel()
        self.sums = RowSums(["tokens", "end", *(f"{name}.{point}" for name in (*UNITS, "l0") for point in range(count))])
        self.share = self.plan.share[points]
        self.inserted = Effects(self.plan.n_large)
        self.stepped = Effects(self.plan.steps)
        self._rows = 0

    def start_batch(self, batch: CleanBatch) -> None:
        """A batch begins."""
        self._rows, bins = batch.tokens.shape[0], self.points.numel() + 1
        self._squares = torch.zeros(2, self._rows * bins, dtype=torch.float64)  # of the residual, by units
        self._dots = torch.zeros(2, self._rows * bins, dtype=torch.float64)  # of residual and change of base
        self._bases = torch.zeros(2, self._rows, dtype=torch.float64)  # squares of the change of base
        self._l0 = torch.zeros(self._rows * bins, dtype=torch.float64)
        self._ends = torch.zeros(self._rows, 2, dtype=torch.float64)  # tokens, the larger one's own squared error

    def observe(self, block: TokenBlock) -> None:
        """Add the changes at each step for a block of tokens."""
        residual = block.targets - block.reconstruction
        end = _square(block.targets - self.pair.end(block.inputs))
        self._ends.index_add_(0, block.rows.cpu(), torch.stack([torch.ones_like(end), end], dim=1).cpu())
        centred = block.targets.square().sum(1) - block.targets.shape[1] * block.targets.mean(1).square()
        weights = torch.stack([torch.ones_like(centred), 1 / centred.clamp_min(torch.finfo(torch.float32).tiny)])
        self._follow(block, residual, weights)
        self._take_alone(block, residual, weights)

    def _follow(self, block: TokenBlock, residual: Tensor, weights: Tensor) -> None:
        """Go through each token's own steps in order."""
        code, change = block.latents, self.pair.base(block.inputs)[1]
        points = torch.bucketize(self.plan.step.to(code.indices.device)[code.indices], self.points.to(code.indices.device))
        points, order = points.masked_fill(~code.active, self.points.numel()).sort(dim=1)
        numbers, values = code.indices.gather(1, order), code.values.gather(1, order)
        values = torch.where(numbers < self.plan.n_small, values, -values)
        rows, bins = block.rows, self.points.numel() + 1
        square, dot = _square(residual), torch.linalg.vecdot(residual, change).double()
        start = rows * bins
        self._add_changes(start, square, dot, weights)
        base = (weights.double() * _square(change)).cpu()
        self._bases.index_add_(1, rows.cpu(), base)
        self._l0.index_add_(0, start.cpu(), (code.active & (code.indices < self.plan.n_small)).sum(1).double().cpu())
        for slot in range(numbers.shape[1]):
            residual = residual + values[:, slot, None] * self.pair.directions(numbers[:, slot])
            now_square, now_dot = _square(residual), torch.linalg.vecdot(residual, change).double()
            where = start + points[:, slot]
            self._add_changes(where, now_square - square, now_dot - dot, weights)
            came = torch.where(numbers[:, slot] < self.plan.n_small, -1.0, 1.0) * (values[:, slot] != 0)
            self._l0.index_add_(0, where.cpu(), came.double().cpu())
            square, dot = now_square, now_dot

    def _add_changes(self, where: Tensor, square: Tensor, dot: Tensor, weights: Tensor) -> None:
        self._squares.index_add_(1, where.cpu(), (weights.double() * square).cpu())
        self._dots.index_add_(1, where.cpu(), (weights.double() * dot).cpu())

    def _take_alone(self, block: TokenBlock, residual: Tensor, weights: Tensor) -> None:
        """Each large latent inserted alone, and each step taken alone, into the unchanged smaller autoencoder."""
        code = block.latents
        _, large = self.pair.parts(code)
        tokens, slots = large.active.nonzero(as_tuple=True)
        numbers, values = large.indices[tokens, slots], large.values[tokens, slots]
        table = self.pair.large.W_dec.float()
        along = dot_rows(Entries(tokens, numbers, residual.shape[0]), residual, table)
        norms = table.square().sum(1)[numbers]
        change = values.double() * (values.double() * norms - 2 * along)
        self.inserted.add(numbers, block.rows[tokens], change * weights[:, tokens])
        width = max(1, CHANGE_ELEMENTS // (max(1, code.indices.shape[1]) * residual.shape[1]))
        for start in range(0, residual.shape[0], width):
            part = slice(start, start + width)
            self._steps_alone(code.rows(part), residual[part], weights[:, part], block.rows[part])

    def _steps_alone(self, code: SparseLatents, residual: Tensor, weights: Tensor, rows: Tensor) -> None:
        tokens, slots = code.active.nonzero(as_tuple=True)
        numbers, values = code.indices[tokens, slots], code.values[tokens, slots]
        step = self.plan.step.to(numbers.device)[numbers] - 1
        keys, place = (tokens * self.plan.steps + step).unique(return_inverse=True)
        place, order = place.sort(stable=True)
        numbers, values = numbers[order], values[order]
        is_small = numbers < self.plan.n_small
        change = residual.new_zeros(keys.numel(), residual.shape[1])
        for mask, sae, sign, first in (
            (is_small, self.pair.small, 1, 0),
            (~is_small, self.pair.large, -1, self.plan.n_small),
        ):
            entries = Entries(place[mask], numbers[mask] - first, keys.numel())
            change += sign * sum_rows(entries, values[mask], sae.W_dec.float())
        token = keys // self.plan.steps
        difference = 2 * torch.linalg.vecdot(residual[token], change).double() + _square(change)
        self.stepped.add(keys % self.plan.steps, rows[token], difference * weights[:, token])

    def end_batch(self) -> None:
        """Cumulate the changes along the path."""
        count = self.points.numel()
        squares, dots = (each.view(2, self._rows, count + 1)[..., :count].cumsum(2) for each in (self._squares, self._dots))
        errors = squares - 2 * self.share * dots + self.share.square() * self._bases.unsqueeze(2)
        l0 = self._l0.view(self._rows, count + 1)[:, :count].cumsum(1)
        self.sums.add_rows(torch.cat([self._ends, errors[0], errors[1], l0], dim=1))
        self.inserted.end_batch(self._rows)
        self.stepped.end_batch(self._rows)

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, StitchPath)
        self.sums.merge(other.sums)
        self.inserted.merge(other.inserted)
        self.stepped.merge(other.stepped)

    def compute(self) -> EvaluatorResult:
        """Nothing by itself: the study reads the sums."""
        return self.result([])


class Effects:
    """Sums over tokens of what each of ``n`` things changes, with the spread between rows of text.

    Attributes:
        total: ``[2, n]`` float64, in the two units; ``squares``: ``[2, n]``, the sum over rows of squared row sums.
        tokens: ``[n]`` int64, tokens at which something changed; ``rows``: rows seen.
    """

    def __init__(self, n: int) -> None:
        self.n, self.rows = n, 0
        self.total = torch.zeros(2, n, dtype=torch.float64)
        self.squares = torch.zeros(2, n, dtype=torch.float64)
        self.tokens = torch.zeros(n, dtype=torch.int64)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, numbers: Tensor, rows: Tensor, changes: Tensor) -> None:
        """Changes ``[2, entries]`` of things ``[entries]`` in rows ``[entries]`` of the batch."""
        self._parts.append((numbers.cpu(), rows.cpu(), changes.double().cpu()))

    def end_batch(self, rows: int) -> None:
        """Close the batch: a row is in one batch as a whole, though not in one block."""
        self.rows += rows
        if not self._parts:
            return
        numbers, of_row, changes = (torch.cat(parts, dim=-1) for parts in zip(*self._parts, strict=True))
        self._parts = []
        self.tokens += torch.bincount(numbers, minlength=self.n)
        keys, place = (numbers * rows + of_row).unique(return_inverse=True)
        sums = torch.zeros(2, keys.numel(), dtype=torch.float64).index_add_(1, place, changes)
        self.total.index_add_(1, keys // rows, sums)
        self.squares.index_add_(1, keys // rows, sums.square())

    def merge(self, other: Effects) -> None:
        """Add another's sums."""
        self.rows += other.rows
        self.total += other.total
        self.squares += other.squares
        self.tokens += other.tokens

    def standard_errors(self) -> Tensor:
        """``[2, n]``: of the totals, rows of text taken as independent; NaN where there is one row."""
        spread = self.squares - self.total.square() / max(self.rows, 1)
        if self.rows < 2:
            return torch.full_like(spread, torch.nan)
        return (spread.clamp_min(0) * self.rows / (self.rows - 1)).sqrt()


def _square(vectors: Tensor) -> Tensor:
    squares: Tensor = torch.linalg.vecdot(vectors, vectors)
    return squares.double()
