"""Floors: are trained autoencoders told apart from controls?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import ttest_1samp

from saebench.audit.lenses.finding import Finding, Outcome, Values, array, unknown
from saebench.audit.scores import Score, grouped
from saebench.comparison.controls import holm


def floors(trained: Sequence[Score], controls: Sequence[Score], asked: Mapping[str, float]) -> Finding:
    """Trained autoencoders against each kind of control, paired by cell and seed.

    Args:
        trained: scores of trained autoencoders; ``controls``: of controls with the same cells and seeds.
        asked: ``p_most`` after Holm's correction, ``effect_least``, ``pairs_least``.

    Returns:
        The smallest effect: mean difference over the standard deviation of differences, p from a one-sided paired t test.
    """
    mine = {_pair(each): each.good for each in trained}
    kinds = {}
    for kind, its in grouped(controls, lambda each: each.subject.control).items():
        differences = array([mine[_pair(each)] - each.good for each in its if _pair(each) in mine])
        if len(differences) >= asked["pairs_least"]:
            kinds[kind] = _separation(differences)
    if not kinds:
        return unknown("floors", f"There are fewer than {asked['pairs_least']:.0f} pairs with a control.")
    for each, p in zip(kinds.values(), holm([each["p"] for each in kinds.values()]), strict=True):
        each["p_holm"] = p if p is not None else 1.0
    weakest = min(kinds.values(), key=lambda each: each["effect"])
    missed = [kind for kind, each in kinds.items() if each["p_holm"] > asked["p_most"]]
    outcome: Outcome = "failed" if missed else "passed" if weakest["effect"] >= asked["effect_least"] else "care"
    words = f"Trained autoencoders are not separated from {', '.join(missed)}." if missed else (
        f"Trained autoencoders are better than every control; the smallest effect is {weakest['effect']:.1f}."
    )  # fmt: skip
    return Finding("floors", outcome, words, weakest["effect"], weakest["low"], weakest["high"], {"controls": kinds})


def _pair(score: Score) -> tuple[str, int]:
    return score.subject.cell, score.subject.seed


def _separation(differences: Values) -> dict[str, float]:
    count, spread, mean = len(differences), float(differences.std(ddof=1)), float(differences.mean())
    if spread < 1e-12:
        effect, p = (0.0, 1.0) if abs(mean) < 1e-12 else (float(np.sign(mean)) * 100.0, 0.0 if mean > 0 else 1.0)
    else:
        effect, p = mean / spread, float(ttest_1samp(differences, 0.0, alternative="greater").pvalue)
    half = 1.96 * float(np.sqrt(1 / count + effect**2 / (2 * count)))  # large-sample error of a standardised mean
    return {"effect": effect, "low": effect - half, "high": effect + half, "p": p, "pairs": float(count), "difference": mean}
