"""Many small non-negative least-squares problems at once, by projected Newton steps.

Each problem minimises ``u G u / 2 - c u`` over ``u >= 0``: coordinates at the bound with a descent direction below it are
held there, the others take a Newton step, and the step is shortened until the objective falls (Bertsekas 1982, "Projected
Newton methods for optimization problems with simple constraints").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOST_STEPS = 100
SHORTENINGS = 20
TOLERANCE = 1e-8
SUFFICIENT = 1e-4
"""Share of the decrease predicted by the gradient that a step must achieve (Armijo)."""
RIDGE = 1e-9
"""Ridge, as a share of the largest diagonal entry: keeps Newton steps defined where directions coincide; the objective is
unchanged."""


class Solution(NamedTuple):
    """The solutions.

    Attributes:
        values: ``[problems, k]`` float64.
        converged: ``[problems]`` bool: the optimality conditions hold to within the tolerance.
    """

    values: Tensor
    converged: Tensor


def solve(gram: Tensor, linear: Tensor, start: Tensor, live: Tensor) -> Solution:
    """Minimise all problems from ``start``; no objective increases.

    Args:
        gram: ``[problems, k, k]``, positive semi-definite.
        linear: ``[problems, k]``.
        start: ``[problems, k]``, not negative.
        live: ``[problems, k]`` bool: the coordinates that exist; the others stay 0.
    """
    gram, linear = gram.double(), linear.double()
    values = start.double() * live
    converged = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
    open_problems = torch.arange(values.shape[0], device=values.device)
    for _ in range(MOST_STEPS):
        if not open_problems.numel():
            break
        problem = _Problems(gram[open_problems], linear[open_problems], live[open_problems])
        moved, done, stuck = problem.step(values[open_problems])
        values[open_problems] = moved
        converged[open_problems] = done
        open_problems = open_problems[~(done | stuck)]
    return Solution(values, converged)


class _Problems(NamedTuple):
    gram: Tensor
    linear: Tensor
    live: Tensor

    def step(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(values after a step, which were optimal before it, which could not be improved)``."""
        diagonal = self.gram.diagonal(dim1=1, dim2=2)
        largest = diagonal.amax(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        wanted = (self.linear / largest).abs().amax(dim=1, keepdim=True)
        scale = torch.maximum(values.amax(dim=1, keepdim=True), wanted)
        gradient = (torch.bmm(self.gram, values.unsqueeze(2)).squeeze(2) - self.linear) * self.live
        violation = (values - (values - gradient / largest).clamp_min(0)).abs().amax(dim=1, keepdim=True)
        rounding = 4 * torch.finfo(values.dtype).eps * scale  # of the gradient at large values
        done = (violation <= torch.maximum(TOLERANCE * wanted, rounding)).squeeze(1)
        held = (values <= torch.minimum(violation, 1e-3 * scale)) & (gradient > 0)
        free = self.live & ~held
        newton = self._newton(free, gradient, largest)
        direction = torch.where(free, newton, -gradient / largest) * self.live
        moved, stuck = self._search(values, gradient, direction, free)
        if bool((stuck & ~done).any()):  # nearly singular: follow the gradient
            plain, still = self._search(values, gradient, -gradient / largest * self.live, free)
            moved, stuck = torch.where(stuck.unsqueeze(1), plain, moved), stuck & still
        return torch.where(done.unsqueeze(1), values, moved), done, stuck & ~done

    def _newton(self, free: Tensor, gradient: Tensor, largest: Tensor) -> Tensor:
        """The Newton step within the free coordinates; the others' rows are those of the identity."""
        both = free.unsqueeze(2) & free.unsqueeze(1)
        ridge = torch.where(free, RIDGE * largest, torch.ones_like(largest))
        matrix = torch.where(both, self.gram, torch.zeros((), dtype=self.gram.dtype, device=self.gram.device))
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(ridge))
        right = (-gradient * free).unsqueeze(2)
        steps = torch.cholesky_solve(right, factor).squeeze(2)
        usable = (failed == 0) & steps.isfinite().all(dim=1)
        return torch.where(usable.unsqueeze(1), steps, -gradient / largest)

    def _search(self, values: Tensor, gradient: Tensor, direction: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the step along the projected arc until each objective falls enough."""
        length = torch.ones(values.shape[0], 1, dtype=values.dtype, device=values.device)
        moved = values.clone()
        pending = torch.ones(values.shape[0], dtype=torch.bool, device=values.device)
        slope = -(gradient * direction * free).sum(dim=1)
        for _ in range(SHORTENINGS):
            trial = (values + length * direction).clamp_min(0)
            change = trial - values
            fall = (
                -(gradient * change).sum(dim=1)
                - torch.bmm(change.unsqueeze(1), self.gram @ change.unsqueeze(2)).flatten() / 2
            )
            promised = length.squeeze(1) * slope - (gradient * change * ~free).sum(dim=1)
            accepted = pending & (fall >= SUFFICIENT * promised) & (fall > 0)
            moved = torch.where(accepted.unsqueeze(1), trial, moved)
            pending = pending & ~accepted
            if not bool(pending.any()):
                break
            length = torch.where(pending.unsqueeze(1), length / 2, length)
        return moved, pending
