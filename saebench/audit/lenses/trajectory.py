"""Trajectory: does a metric improve as training goes on, and do architectures differ by more than seeds?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saebench.audit.lenses.finding import Finding, Outcome, array, spearman, unknown
from saebench.audit.scores import Score, grouped


def trajectory(trained: Sequence[Score], asked: Mapping[str, float]) -> Finding:
    """Mean rank correlation with training tokens within runs of at least three checkpoints.

    Args:
        trained: scores of checkpoints; a run is one architecture, cell and seed.
        asked: ``right``, ``inverted``, ``signal_least``.

    Returns:
        The mean over runs, with an interval from its standard error; in the details the variance between architectures
        over that between seeds, at the last checkpoint of all runs of these widths and sparsities.
    """
    every = list(grouped(trained, _run).values())
    runs = [its for its in every if len({each.subject.tokens for each in its}) >= 3]
    if not runs:
        return unknown("trajectory", "No run has three checkpoints.")
    found = array([spearman(array([e.subject.tokens for e in its]), array([e.good for e in its])) for its in runs])
    mean = float(found.mean())
    half = 1.96 * float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
    places = {_place(its[0]) for its in runs}
    ends = (max(its, key=lambda each: each.subject.tokens) for its in every)
    signal = _signal([end for end in ends if _place(end) in places])
    outcome: Outcome = "passed" if mean >= asked["right"] else "failed" if mean <= asked["inverted"] else "care"
    if outcome == "passed" and signal is not None and signal < asked["signal_least"]:
        outcome = "care"
    words = f"Rank correlation with training tokens is {mean:.2f}"
    words += "." if signal is None else f"; architectures vary {signal:.1f} times as much as seeds."
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Finding("trajectory", outcome, words, mean, low, high, {"runs": len(runs), "signal_to_noise": signal})


def _run(score: Score) -> str:
    subject = score.subject
    return f"{subject.architecture} {subject.cell} {subject.seed}"


def _place(score: Score) -> str:
    """Width and sparsity: the cell without its architecture."""
    return score.subject.cell.removeprefix(score.subject.architecture)


def _signal(last: Sequence[Score]) -> float | None:
    """Variance of architectures' means, less what seeds give it, over the variance between seeds."""
    groups = [array([each.value for each in its]) for its in grouped(last, lambda s: s.subject.architecture).values()]
    groups = [each for each in groups if len(each) > 1]
    if len(groups) < 2:
        return None
    within = float(np.mean([each.var(ddof=1) for each in groups]))
    by_chance = within * float(np.mean([1 / len(each) for each in groups]))
    between = float(np.var([each.mean() for each in groups], ddof=1)) - by_chance
    return max(between, 0.0) / within if within > 0 else None
