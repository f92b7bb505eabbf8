"""Linear probes trained by stochastic gradient descent: several at once on dense values, one on sparse ones.

AdamW acts on each weight alone, so probes that are trained together are those that would be trained one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor

from saebench.probing.protocol import Strict


class LinearSettings(Strict):
    """How probes are trained.

    Attributes:
        batch: examples; ``epochs``: the most; ``rate``: of AdamW (weight decay 0.01); ``l1``: penalty of the weights.
        patience: epochs without a better accuracy on the validation examples after which a probe is finished.
        validation: share of the training examples on which the epoch is selected; with 0 the last one is used.
    """

    batch: int = Field(ge=1)
    epochs: int = Field(ge=1)
    rate: float = Field(gt=0)
    l1: float = Field(ge=0)
    patience: int = Field(ge=1)
    validation: float = Field(ge=0, lt=0.9)


class Examples(NamedTuple):
    """Examples of several probes: ``rows`` ``[probes, examples]`` int64 (row numbers of the values), ``labels`` alike."""

    rows: Tensor
    labels: Tensor

    def part(self, columns: slice) -> Examples:
        """Some of the examples."""
        return Examples(self.rows[:, columns], self.labels[:, columns])


class Fitted(NamedTuple):
    """Probes: ``weight`` ``[probes, d]``, ``bias`` ``[probes]``, and the epoch that was selected, ``[probes]``."""

    weight: Tensor
    bias: Tensor
    epoch: Tensor


class Dense(NamedTuple):
    """Values ``[rows, d]`` float32."""

    values: Tensor

    @property
    def width(self) -> int:
        """Number of features."""
        return self.values.shape[1]

    def logits(self, weight: Tensor, bias: Tensor, index: Tensor) -> Tensor:
        """``[probes, examples]``."""
        return torch.einsum("ped,pd->pe", self.values[index], weight) + bias.unsqueeze(1)


class Sparse(NamedTuple):
    """Sparse values ``[rows, n]``; one probe at a time."""

    values: csr_array

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.values.shape[1])

    def logits(self, weight: Tensor, bias: Tensor, index: Tensor) -> Tensor:
        """``[1, examples]``."""
        some = self.values[index[0].numpy()]
        bags = F.embedding_bag(
            torch.from_numpy(some.indices).long(), weight[0].unsqueeze(1), torch.from_numpy(some.indptr[:-1]).long(),
            per_sample_weights=torch.from_numpy(some.data), mode="sum",
        )  # fmt: skip
        return bags.T + bias.unsqueeze(1)


def fit_linear(
    source: Dense | Sparse, examples: Examples, settings: LinearSettings, seed: int, numbers: Sequence[int] | None = None
) -> Fitted:
    """Fit one probe for each row of ``examples``; they come in an order that depends on the seed and the probe alone.

    ``numbers``: of the probes, 0, 1, ... by default: those of several sets that are fitted together begin anew in each.
    """
    probes, count = examples.rows.shape
    generators = [torch.Generator().manual_seed(seed * 1_000_003 + number) for number in numbers or range(probes)]
    examples = _permuted(examples, generators)
    held = round(count * settings.validation)
    watched, examples = examples.part(slice(0, held)), examples.part(slice(held, count))
    weight = torch.stack([torch.rand(source.width, generator=each) for each in generators]) * 2 - 1
    bias = torch.stack([torch.rand((), generator=each) for each in generators]) * 2 - 1
    weight, bias = (each / source.width**0.5 for each in (weight, bias))
    weight.requires_grad_(), bias.requires_grad_()
    optimiser = torch.optim.AdamW([weight, bias], lr=settings.rate)
    kept = Fitted(weight.detach().clone(), bias.detach().clone(), torch.zeros(probes, dtype=torch.int64))
    best = torch.full((probes,), -1.0)
    for epoch in range(1, settings.epochs + 1):
        _epoch(source, _permuted(examples, generators), settings, weight, bias, optimiser)
        open_ = torch.ones(probes, dtype=torch.bool)
        if held:
            right = _accuracy(source, weight, bias, watched)
            open_ = (right > best) & (epoch - kept.epoch <= settings.patience)
            best = torch.where(open_, right, best)
        kept.weight[open_], kept.bias[open_], kept.epoch[open_] = weight.detach()[open_], bias.detach()[open_], epoch
        if held and bool((epoch - kept.epoch >= settings.patience).all()):
            break
    return kept


@torch.no_grad()
def linear_logits(source: Dense | Sparse, fitted: Fitted, index: Tensor) -> Tensor:
    """``[probes, examples]``: logits of the examples ``index`` (``[probes, examples]``)."""
    return source.logits(fitted.weight, fitted.bias, index)


def _epoch(
    source: Dense | Sparse, examples: Examples, settings: LinearSettings, weight: Tensor, bias: Tensor,
    optimiser: torch.optim.Optimizer,
) -> None:  # fmt: skip
    for start in range(0, examples.rows.shape[1], settings.batch):
        batch = examples.part(slice(start, start + settings.batch))
        optimiser.zero_grad()
        logits = source.logits(weight, bias, batch.rows)
        loss = F.binary_cross_entropy_with_logits(logits, batch.labels.float(), reduction="none").mean(dim=1).sum()
        if settings.l1:
            loss = loss + settings.l1 * weight.abs().sum()
        loss.backward()
        optimiser.step()


def _permuted(examples: Examples, generators: list[torch.Generator]) -> Examples:
    order = torch.stack([torch.randperm(examples.rows.shape[1], generator=each) for each in generators])
    return Examples(examples.rows.gather(1, order), examples.labels.gather(1, order))


@torch.no_grad()
def _accuracy(source: Dense | Sparse, weight: Tensor, bias: Tensor, examples: Examples) -> Tensor:
    logits = source.logits(weight, bias, examples.rows)
    return ((logits > 0) == (examples.labels == 1)).float().mean(dim=1)
