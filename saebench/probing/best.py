"""The best one-dimensional probe over many directions (Gao et al. 2024, section 4.2)."""

from __future__ import annotations

from typing import Any

from saebench.probing.activations import TaskActivations
from saebench.probing.newton import Probes, fit_probes
from saebench.probing.protocol import BestLatent
from saebench.probing.scores import held_out
from saebench.probing.values import ValueSource


def best_probe(source: ValueSource, acts: TaskActivations, settings: BestLatent, seed: int) -> dict[str, Any]:
    """Fit a probe to every direction on the training texts, select the one with the smallest loss, and evaluate it on the
    test texts.

    All directions are fitted in float32; the best few are fitted again in float64, and the best of those is selected.

    Returns:
        JSON data: ``index``, ``train_loss``, ``separable``, the scores of ``held_out``, ``median_train_loss`` over
        directions, ``not_converged`` (directions), and ``float32_deviation``, the largest difference of the two precisions.
    """
    train = acts.span("train")
    rows, owner = acts.of_texts(train)
    labels = acts.labels[train]
    parts = [fit_probes(chunk, labels) for chunk in source.chunks(rows, owner, labels.numel())]
    coarse = Probes.cat(parts)
    candidates = coarse.best(settings.candidates)
    values = source.chosen(candidates, acts.rows, acts.owner, acts.texts).double()
    near = (coarse.weight[candidates], coarse.bias[candidates]) if bool(coarse.converged[candidates].all()) else None
    exact = fit_probes(values[:, train], labels, near)
    winner = int(exact.best(1))
    test = acts.span("test")
    logits = exact.weight[winner] * values[winner, test] + exact.bias[winner]
    deviation = (exact.loss - coarse.loss[candidates].double()).abs().max()
    return {
        "index": int(candidates[winner]),
        "train_loss": float(exact.loss[winner]),
        "separable": bool(exact.separable[winner]),
        "weight": float(exact.weight[winner]),
        "bias": float(exact.bias[winner]),
        "held_out": held_out(logits, acts.labels[test], acts.groups[test], labels.numel(), settings.bootstrap, seed),
        "median_train_loss": float(coarse.loss.median()),
        "not_converged": int((~coarse.converged).sum()),
        "float32_deviation": float(deviation),
        "directions": source.width,
    }
