"""Probes on several values at once: a few latents, and the whole residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.probing.activations import TaskActivations
from saebench.probing.best import best_probe
from saebench.probing.protocol import Dense, KSparse, Pooling, Protocol
from saebench.probing.ridge import in_span, ridge_logits
from saebench.probing.scores import clipped_losses, held_out
from saebench.probing.values import Activations, Directions, RandomDirections, ValueSource, pool


def k_sparse(source: Activations, acts: TaskActivations, settings: KSparse, draws: int, seed: int) -> dict[str, Any]:
    """Logistic regression on the ``k`` latents whose class means differ most on the training texts, for each ``k``.

    Returns:
        JSON data by ``k``: ``latents`` and the scores of ``held_out``.
    """
    train, test = acts.span("train"), acts.span("test")
    rows, owner = acts.of_texts(train)
    means = source.class_means(rows, owner, acts.labels[train])
    widest = min(max(settings.k), source.width)
    order = (means[1] - means[0]).abs().topk(widest).indices
    values = source.chosen(order, acts.rows, acts.owner, acts.texts).T.double()
    values = _standardised(values, train)
    found = {}
    for k in settings.k:
        logits = _regression(values[train, :k], acts.labels[train], settings.C, values[test, :k])
        scores = held_out(logits, acts.labels[test], acts.groups[test], acts.sizes["train"], draws, seed)
        found[str(k)] = {"latents": order[:k].tolist(), **scores}
    return found


def dense_baselines(acts: TaskActivations, protocol: Protocol, seed: int) -> dict[str, Any]:
    """Baselines on the same texts that know nothing of the autoencoder.

    Returns:
        for ``channels`` and ``pca`` the data of ``best_probe``, for ``logistic`` those of ``held_out``.
    """
    pooling, settings = protocol.best.values.pooling, protocol.dense.probe
    found: dict[str, Any] = {}
    for name in settings.directions:
        if name != "random":
            found[name] = best_probe(_directions(name, acts, pooling), acts, protocol.best.probe, seed)
    found["logistic"] = _full_regression(acts, settings, pooling, protocol.best.probe.bootstrap, seed)
    return found


def random_baseline(acts: TaskActivations, width: int, protocol: Protocol, seed: int) -> dict[str, Any]:
    """The data of ``best_probe`` on a random dictionary with as many directions as the autoencoder."""
    directions = RandomDirections(acts.rows.shape[1], width, seed, protocol.best.values.pooling)
    return best_probe(directions, acts, protocol.best.probe, seed)


def _directions(name: str, acts: TaskActivations, pooling: Pooling) -> ValueSource:
    if name == "channels":
        return Directions(torch.eye(acts.rows.shape[1]), pooling)
    rows = acts.of_texts(acts.span("train"))[0].double()
    return Directions(torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)[2].T.float().contiguous(), pooling)


def _full_regression(acts: TaskActivations, settings: Dense, pooling: Pooling, draws: int, seed: int) -> dict[str, Any]:
    """Logistic regression on all of the residual stream; the penalty is selected on the validation texts."""
    train, validation, test = acts.span("train"), acts.span("validation"), acts.span("test")
    values = _standardised(pool(acts.rows.double(), acts.owner, acts.texts, pooling), train)
    tried = []
    for strength in settings.C:
        others = slice(validation.start, test.stop)
        logits = _regression(values[train], acts.labels[train], strength, values[others])
        middle = acts.sizes["validation"]
        loss = float(clipped_losses(logits[:middle], acts.labels[validation], acts.sizes["train"]).mean())
        tried.append((loss, strength, logits[middle:]))
    _, strength, logits = min(tried, key=lambda each: each[:2])
    scores = held_out(logits, acts.labels[test], acts.groups[test], acts.sizes["train"], draws, seed)
    return {"C": strength, **scores}


def _standardised(values: Tensor, train: slice) -> Tensor:
    """Mean 0 and variance 1 on the training texts; constant values become 0."""
    mean, deviation = values[train].mean(dim=0), values[train].std(dim=0, unbiased=False)
    return torch.where(deviation > 0, (values - mean) / deviation.clamp_min(1e-300), 0)


def _regression(values: Tensor, labels: Tensor, strength: float, others: Tensor) -> Tensor:
    """``[texts]`` float64: logits of ``others`` by a logistic regression with an L2 penalty of ``1 / strength``."""
    train, test = in_span(values.numpy(), others.numpy())
    return torch.from_numpy(ridge_logits(train, labels.numpy(), strength, test))
