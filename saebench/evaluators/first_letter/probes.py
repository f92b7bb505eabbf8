"""Logistic probes of all letters at once, on activations or on sparse latents, and k-sparse probes of one letter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.first_letter.protocol import KSparseSection, Training
from saebench.sae import SparseLatents

Forward = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Probes:
    """Probes of several classes: ``logits = x @ weight + bias``.

    Attributes:
        weight: ``[width, classes]``.
        bias: ``[classes]``.
    """

    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """``[rows, classes]`` logits of dense ``x``."""
        return x @ self.weight + self.bias


def fit_dense(x: Tensor, labels: Tensor, classes: int, settings: Training, seed: int) -> Probes:
    """Probes on ``x`` (``[rows, width]``); ``labels`` (``[rows]``) are classes."""
    return _fit(lambda rows, weight: x[rows] @ weight, x.shape[1], labels, classes, settings, seed)


def fit_sparse(
    code: SparseLatents, labels: Tensor, classes: int, settings: Training, seed: int, mirrored: bool = False
) -> Probes:
    """Probes on latents, which stay sparse; ``mirrored``: from the opposite of the random start, with the same batches."""

    def forward(rows: Tensor, weight: Tensor) -> Tensor:
        if code.indices.shape[1] == 0:
            return weight.new_zeros(rows.numel(), classes)
        return F.embedding_bag(code.indices[rows], weight, per_sample_weights=code.values[rows], mode="sum")

    return _fit(forward, code.n_latents, labels, classes, settings, seed, -1.0 if mirrored else 1.0)


@torch.enable_grad()
def _fit(
    forward: Forward, width: int, labels: Tensor, classes: int, settings: Training, seed: int, sign: float = 1.0
) -> Probes:
    """One class against the rest for each class, positives weighted to balance: Adam on minibatches.

    ``sign`` is that of the random start.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = F.one_hot(labels, classes).float()
    positive = targets.sum(dim=0)
    balance = torch.where(positive > 0, (labels.numel() - positive) / positive.clamp_min(1), 1.0)
    reach = sign * width**-0.5
    weight = ((torch.rand(width, classes, generator=generator) * 2 - 1) * reach).requires_grad_()
    bias = ((torch.rand(classes, generator=generator) * 2 - 1) * reach).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    fall = (settings.last_learning_rate / settings.learning_rate) ** (1 / settings.epochs)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=fall)
    for _ in range(settings.epochs):
        for rows in torch.randperm(labels.numel(), generator=generator).split(settings.batch):
            logits = forward(rows, weight) + bias
            loss = F.binary_cross_entropy_with_logits(logits, targets[rows], pos_weight=balance)
            if settings.l1:
                loss = loss + settings.l1 * weight.abs().sum(dim=0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return Probes(weight.detach(), bias.detach())


@dataclass(frozen=True)
class MainLatents:
    """The latents of a letter.

    Attributes:
        latents: the one that predicts it best, and those into which its feature is split.
        f1, recall: of the probe on them, on held-out words.
    """

    latents: list[int]
    f1: float
    recall: float


def main_latents(
    candidates: Tensor, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: KSparseSection
) -> MainLatents:
    """Add candidates one at a time as long as each raises F1 by more than the protocol's jump.

    Args:
        candidates: ``[k]``, latents in order.
        train: values of the candidates ``[rows, k]`` and whether each row has the letter, ``[rows]`` bool.
        test: the same of held-out words.
        settings: of the probes.
    """
    best = MainLatents([], float("-inf"), 0.0)
    for k in range(1, candidates.numel() + 1):
        predicted = _logistic(train[0][:, :k], train[1], settings.C, test[0][:, :k]) > 0
        f1, recall = f1_and_recall(predicted, test[1])
        if f1 <= best.f1 + settings.jump:
            break
        best = MainLatents(candidates[:k].tolist(), f1, recall)
    return best


def _logistic(x: Tensor, y: Tensor, strength: float, others: Tensor) -> Tensor:
    """``[rows]``: logits of ``others`` by a balanced logistic regression with an L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=500, class_weight="balanced").fit(x.numpy(), y.numpy())
    return torch.from_numpy(model.decision_function(others.numpy()))


def f1_and_recall(predicted: Tensor, truth: Tensor) -> tuple[float, float]:
    """F1 and recall of ``predicted`` (``[rows]`` bool); 0 where nothing is predicted."""
    hits, positive = int((predicted & truth).sum()), int(truth.sum())
    total = int(predicted.sum()) + positive
    return (2 * hits / total if total else 0.0), (hits / positive if positive else 0.0)
