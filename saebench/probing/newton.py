"""Logistic regression on one value at a time, for very many values at once.

Each probe has one weight and one bias, fitted to its own values by Newton's method without a penalty (Gao et al. 2024,
section 4.2): ``min over w, b of mean(softplus(w x + b) - y (w x + b))``. Where the classes can be separated there is no
minimum; its infimum is then known in closed form and returned instead.

Not done here: penalties, more than one value a probe, weights of examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GRADIENT_TOLERANCE = 1e-5
"""A float32 probe has converged where both derivatives of its mean loss, by standardised values, are smaller: the loss is
then within about 1e-8 nats of its minimum."""

DOUBLE_TOLERANCE = 1e-10
"""The same in float64."""

MOST_STEPS = 60

BLOCK_ELEMENTS = 1024 * 1024
"""Values processed together: enough to hide the overhead of an operation, few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Probes:
    """One-dimensional logistic probes, one for each latent.

    Attributes:
        weight: ``[latents]``; the probability of label 1 is ``sigmoid(weight * x + bias)``.
        bias: ``[latents]``.
        loss: ``[latents]`` nats: the mean cross-entropy's minimum, or its infimum where there is no minimum.
        separable: ``[latents]`` bool: there is no minimum. ``weight`` is finite even then: the examples nearest to
            the boundary get the probability ``(N + 1) / (N + 2)``, Laplace's rule of succession.
        gap: ``[latents]``: half the distance between the classes in standard deviations; 0 where they overlap.
        converged: ``[latents]`` bool: the gradient's norm fell below the tolerance, or the infimum is known.
    """

    weight: Tensor
    bias: Tensor
    loss: Tensor
    separable: Tensor
    gap: Tensor
    converged: Tensor

    @staticmethod
    def cat(parts: list[Probes]) -> Probes:
        """The probes of consecutive blocks of latents as one."""
        return Probes(*(torch.cat([getattr(part, name) for part in parts]) for name in Probes.__dataclass_fields__))

    def best(self, count: int) -> Tensor:
        """``[count]``: latents by rising loss; ties are broken by the wider gap, then by the lower number."""
        count = min(count, self.loss.numel())
        worst = self.loss.kthvalue(count).values
        chosen = (self.loss <= worst).nonzero().flatten()
        order = sorted(chosen.tolist(), key=lambda i: (float(self.loss[i]), -float(self.gap[i]), i))
        return torch.tensor(order[:count], dtype=torch.int64)


def fit_probes(values: Tensor, labels: Tensor, near: tuple[Tensor, Tensor] | None = None) -> Probes:
    """Fit one probe to each row of values.

    Args:
        values: ``[latents, examples]``, float32 or float64; the computation uses that precision.
        labels: ``[examples]``, 0 or 1.
        near: weights and biases (``[latents]`` each) where the search starts, of a fit in lower precision; the result does
            not depend on it beyond the tolerance.

    Raises:
        ValueError: there is no example, or a value is not finite.
    """
    examples = values.shape[1]
    if examples == 0:
        raise ValueError("there is no example to fit a probe to")
    order = labels.argsort(stable=True)  # zeros before ones: each class is then a slice, not a gathered copy
    zeros = int((labels == 0).sum())
    size = max(1, BLOCK_ELEMENTS // examples)
    blocks = [slice(first, first + size) for first in range(0, max(1, values.shape[0]), size)]
    starts = [None if near is None else (near[0][block], near[1][block]) for block in blocks]
    parts = [_fit_block(values[block].index_select(1, order), zeros, start)
             for block, start in zip(blocks, starts, strict=True)]  # fmt: skip
    found = Probes.cat(parts)
    if not bool(torch.isfinite(found.loss).all()):
        raise ValueError("a value to fit a probe to is not finite")
    return found


def _fit_block(x: Tensor, zeros: int, near: tuple[Tensor, Tensor] | None) -> Probes:
    """Probes of the rows of ``x`` (``[rows, examples]``, changed in place), whose first ``zeros`` examples have label 0."""
    examples = x.shape[1]
    share = 1 - zeros / examples
    mean = x.mean(dim=1, keepdim=True)
    x -= mean
    deviation = (torch.linalg.vecdot(x, x) / examples).sqrt_().unsqueeze(1)
    constant = (deviation <= 1e-6 * mean.abs()).flatten()  # rounding alone makes a constant's deviation differ from 0
    deviation = torch.where(constant[:, None], 1, deviation)
    x *= 1 / deviation
    if share in (0.0, 1.0):
        constant = torch.ones_like(constant)
        found = _blank(x)
    else:
        found, largest = _limits(x, zeros)
        if near is not None:
            near = near[0] * deviation.flatten(), near[1] + near[0] * mean.flatten()
        _solve_open(x, zeros, (~(found.separable | constant)).nonzero().flatten(), largest, near, found)
    flat = math.log((share * examples + 1) / ((1 - share) * examples + 1)) if share in (0.0, 1.0) else _logit(share)
    null_loss = float(_entropy(torch.tensor(share, dtype=torch.float64)))
    weight = torch.where(constant, 0, found.weight / deviation.flatten())
    return Probes(
        weight=weight,
        bias=torch.where(constant, flat, found.bias - weight * mean.flatten()),
        loss=torch.where(constant, null_loss, found.loss.clamp_max(null_loss)),
        separable=found.separable & ~constant,
        gap=torch.where(constant, 0, found.gap),
        converged=found.converged | constant,
    )


def _blank(x: Tensor) -> Probes:
    nothing = x.new_zeros(x.shape[0])
    never = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    return Probes(nothing, nothing.clone(), nothing.clone(), never, nothing.clone(), never.clone())


def _limits(x: Tensor, zeros: int) -> tuple[Probes, Tensor]:
    """``(probes of rows that a threshold separates, [rows] largest magnitude)``.

    Where the classes overlap in a single value only, the infimum is the cross-entropy within that value.
    """
    examples = x.shape[1]
    low_zero, high_zero = x[:, :zeros].amin(1), x[:, :zeros].amax(1)
    low_one, high_one = x[:, zeros:].amin(1), x[:, zeros:].amax(1)
    largest = torch.maximum(torch.maximum(high_zero, high_one), -torch.minimum(low_zero, low_one))
    rising = high_zero <= low_one
    separable = rising | (high_one <= low_zero)
    sign = torch.where(rising, 1.0, -1.0).to(x.dtype)
    lower, upper = torch.where(rising, high_zero, high_one), torch.where(rising, low_one, low_zero)
    middle, gap = (lower + upper) / 2, (upper - lower) / 2
    edge = _logit((examples + 1) / (examples + 2))
    weight = sign * edge / gap
    bias, loss = -weight * middle, torch.zeros_like(gap)
    touching = (separable & (gap == 0)).nonzero().flatten()
    if touching.numel():
        at, rows = middle[touching, None], x[touching]
        tied = rows == at
        share = (tied[:, zeros:].sum(1) / tied.sum(1)).to(x.dtype)
        nearest = torch.where(tied, math.inf, (rows - at).abs()).amin(1)
        weight[touching] = sign[touching] * edge / nearest  # 0 where every example has the one value
        bias[touching] = torch.logit(share) - weight[touching] * middle[touching]
        loss[touching] = tied.sum(1) / examples * _entropy(share)
    return Probes(weight, bias, loss, separable, torch.where(separable, gap, 0), separable.clone()), largest


def _solve_open(
    x: Tensor, zeros: int, rows: Tensor, largest: Tensor, near: tuple[Tensor, Tensor] | None, into: Probes
) -> None:
    """Fill in the probes of those ``rows`` of ``x`` whose classes overlap."""
    if not rows.numel():
        return
    whole = rows.numel() == x.shape[0]
    chosen = x if whole else x[rows]
    start = None if near is None else _Search.at(near[0][rows].to(x.dtype), near[1][rows].to(x.dtype))
    weight, bias, converged = _newton(chosen, zeros, largest if whole else largest[rows], start)
    into.weight[rows], into.bias[rows], into.converged[rows] = weight, bias, converged
    into.loss[rows] = _loss(chosen, zeros, weight, bias)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _entropy(share: Tensor) -> Tensor:
    return -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))


def _newton(x: Tensor, zeros: int, largest: Tensor, start: _Search | None) -> tuple[Tensor, Tensor, Tensor]:
    """``(weight, bias, converged)`` of standardised rows ``x`` whose classes overlap.

    A full step is tried first. Where the loss rises at its end (the derivative along the step is positive), the next trial
    is the secant's zero between the two ends. Converged rows are removed from the block.
    """
    single = x.dtype == torch.float32
    tolerance = GRADIENT_TOLERANCE if single else DOUBLE_TOLERANCE
    targets = x[:, zeros:].sum(1) / x.shape[1]
    state = _Search.start(x, zeros, targets) if start is None else start
    weight, bias = torch.empty_like(state.weight), torch.empty_like(state.bias)
    converged = torch.zeros_like(weight, dtype=torch.bool)
    alive = torch.arange(x.shape[0], device=x.device)
    for _ in range(MOST_STEPS if single else 4 * MOST_STEPS):
        gradient = _derivatives(x, state.weight, state.bias, targets, 1 - zeros / x.shape[1])
        finished = state.advance(gradient, largest, tolerance)
        if bool(finished.any()):
            ended = alive[finished]
            weight[ended], bias[ended], converged[ended] = state.weight[finished], state.bias[finished], True
            keep = (~finished).nonzero().flatten()
            if not keep.numel():
                return weight, bias, converged
            alive, x, targets, largest = alive[keep], x[keep], targets[keep], largest[keep]
            state = state.rows(keep)
    weight[alive], bias[alive] = state.weight, state.bias
    return weight, bias, converged


@dataclass
class _Search:
    """The state of each row's search: it is at ``base + length * step``; ``slope`` is the derivative along it at
    ``base``."""

    weight: Tensor
    bias: Tensor
    step_w: Tensor
    step_b: Tensor
    slope: Tensor
    length: Tensor

    @staticmethod
    def start(x: Tensor, zeros: int, targets: Tensor) -> _Search:
        """The linear discriminant: exact for two normal classes of one variance. Values are standardised."""
        share = 1 - zeros / x.shape[1]
        difference = targets / (share * (1 - share))
        weight = difference / (1 - share * (1 - share) * difference.square()).clamp_min(1e-3)
        bias = _logit(share) - weight * difference * (1 - 2 * share) / 2  # class means: (1 - share) and -share of it
        return _Search.at(weight, bias)

    @staticmethod
    def at(weight: Tensor, bias: Tensor) -> _Search:
        """At a point, before the first step."""
        nothing = torch.zeros_like(weight)
        return _Search(weight, bias, nothing, nothing, nothing - math.inf, nothing + 1)

    def rows(self, keep: Tensor) -> _Search:
        """The searches of some rows."""
        return _Search(*(each[keep] for each in vars(self).values()))

    def advance(self, derivatives: tuple[Tensor, ...], largest: Tensor, tolerance: float) -> Tensor:
        """Advance every row by one step; ``[rows]`` bool: those that have converged.

        A row has converged where its gradient is small, or certain to be after the step now taken: for the logistic loss the
        gradient left by a full Newton step ``d`` is at most ``(e^R - 1 - R) / R * sqrt(h * d'Hd)``, with ``R`` the most that
        any example's logit changes (Bach 2010, "Self-concordant analysis for logistic regression", section 2).
        """
        grad_w, grad_b, h_ww, h_wb, h_bb = derivatives
        small = torch.maximum(grad_w.abs(), grad_b.abs()) <= tolerance
        here = grad_w * self.step_w + grad_b * self.step_b
        good = here <= -0.1 * self.slope
        new_w, new_b = _newton_step(grad_w, grad_b, h_ww, h_wb, h_bb)
        new_slope = grad_w * new_w + grad_b * new_b
        change = (new_w.abs() * largest + new_b.abs()).clamp_max(20)
        left = (change.expm1() - change) / change.clamp_min(1e-30)
        surely = left * (torch.maximum(h_ww, h_bb) * -new_slope).clamp_min(0).sqrt() <= tolerance
        shorter = self.length * (self.slope / (self.slope - here)).clamp(0.1, 0.7).nan_to_num(0.5)
        base_w = torch.where(good, self.weight, self.weight - self.length * self.step_w)
        base_b = torch.where(good, self.bias, self.bias - self.length * self.step_b)
        self.step_w, self.step_b = torch.where(good, new_w, self.step_w), torch.where(good, new_b, self.step_b)
        self.slope, self.length = torch.where(good, new_slope, self.slope), torch.where(good, 1, shorter)
        stay = small.logical_not().to(base_w.dtype)
        self.weight = torch.where(small, self.weight, base_w + stay * self.length * self.step_w)
        self.bias = torch.where(small, self.bias, base_b + stay * self.length * self.step_b)
        return small | (good & surely)


def _derivatives(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, share: float) -> tuple[Tensor, ...]:
    """Gradient and Hessian of the mean loss: ``(g_w, g_b, h_ww, h_wb, h_bb)``, ``[rows]`` each."""
    examples = x.shape[1]
    p = (x * weight[:, None]).add_(bias[:, None]).sigmoid_()
    grad_b = p.mean(1) - share
    grad_w = torch.linalg.vecdot(p, x) / examples - targets
    h = torch.addcmul(p, p, p, value=-1)
    h_bb = h.mean(1)
    h *= x
    return grad_w, grad_b, torch.linalg.vecdot(h, x) / examples, h.mean(1), h_bb


def _newton_step(grad_w: Tensor, grad_b: Tensor, h_ww: Tensor, h_wb: Tensor, h_bb: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the inverse Hessian times the gradient; where the Hessian has underflowed, a step down the gradient."""
    tiny = torch.finfo(grad_w.dtype).eps
    h_ww, h_bb = h_ww * (1 + 4 * tiny) + 1e-30, h_bb * (1 + 4 * tiny) + 1e-30
    determinant = h_ww * h_bb - h_wb.square()
    usable = determinant > tiny * h_ww * h_bb
    step_w = torch.where(usable, (h_wb * grad_b - h_bb * grad_w) / determinant, -grad_w / h_ww)
    step_b = torch.where(usable, (h_wb * grad_w - h_ww * grad_b) / determinant, -grad_b / h_bb)
    return step_w.clamp(-1e6, 1e6), step_b.clamp(-1e6, 1e6)


def _loss(x: Tensor, zeros: int, weight: Tensor, bias: Tensor) -> Tensor:
    """``[rows]`` nats: the mean cross-entropy."""
    logits = (x * weight[:, None]).add_(bias[:, None])
    logits[:, :zeros] *= -1
    if float(logits.amin()) < -80:  # sigmoid would underflow
        return F.softplus(-logits).mean(1)
    return -logits.sigmoid_().log_().mean(1)
