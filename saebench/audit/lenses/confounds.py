"""Confounds: how much of a metric do L0 and width explain, and what does it add to the reconstruction error?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saebench.audit.lenses.finding import Finding, Outcome, array, bootstrap, partial_spearman
from saebench.audit.scores import Score

REFERENCE = "reconstruction.normalised_mse"
LEAST = 12


def confounds(grid: Sequence[Score], trained: Sequence[Score], asked: Mapping[str, float]) -> Finding:
    """Share of variation that log L0 and log n explain, and partial rank correlation with true recovery.

    Args:
        grid: scores of trained autoencoders of several L0 and widths.
        trained: scores of those whose recovery, normalised MSE and L0 are known.
        asked: ``share_most``, ``partial_least``.

    Returns:
        The partial correlation given normalised MSE and L0, with its bootstrap interval; in the details the share.
    """
    share = _share(grid)
    known = [each for each in trained if None not in (each.subject.recovery, each.subject.normalised_mse, each.subject.l0)]
    details = {"share_of_l0_and_n": share, "saes": len(known)}
    if share is not None and share > asked["share_most"]:
        words = f"L0 and width alone explain {share:.0%} of its variation."
        return Finding("confounds", "failed", words, share, details=details)
    if known and known[0].metric == REFERENCE:
        return Finding("confounds", "not known", "It is the reconstruction error that others are held against.",
                       details=details)  # fmt: skip
    if len(known) < LEAST:
        return Finding("confounds", "not known", f"{LEAST} autoencoders with known recovery are needed.", details=details)
    good, truth = array([each.good for each in known]), array([each.subject.recovery for each in known])
    given = [array([each.subject.normalised_mse for each in known]), array([each.subject.l0 for each in known])]
    partial = partial_spearman(good, truth, given)
    low, high = bootstrap(len(known), lambda t: partial_spearman(good[t], truth[t], [each[t] for each in given]))
    outcome: Outcome = "care"
    if partial >= asked["partial_least"] and low > 0:
        outcome = "passed"
    elif partial < asked["partial_least"]:
        outcome = "failed"
    words = f"Given normalised MSE and L0, it correlates by {partial:.2f} with true recovery"
    words += ": it adds little to the reconstruction error." if outcome == "failed" else "."
    return Finding("confounds", outcome, words, partial, low, high, details)


def _share(grid: Sequence[Score]) -> float | None:
    """R squared of the value on log L0 and log n, adjusted for their number; None where they vary too little to tell."""
    fitting = [each for each in grid if each.subject.l0 and each.subject.n]
    l0, n = array([each.subject.l0 for each in fitting]), array([float(each.subject.n) for each in fitting])
    value = array([each.value for each in fitting])
    if len(fitting) < LEAST or l0.max() < 2 * l0.min() or value.std() < 1e-12:
        return None
    design = np.column_stack([np.ones(len(l0)), np.log(l0), np.log(n)])
    left = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    r2 = 1 - float((left**2).sum() / ((value - value.mean()) ** 2).sum())
    return 1 - (1 - r2) * (len(l0) - 1) / (len(l0) - 3)
