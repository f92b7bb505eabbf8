"""Noise: the spread of repeats on independent samples against the standard error that the metric states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import chi2

from saebench.audit.lenses.finding import Finding, Outcome, array, unknown
from saebench.audit.scores import Score, grouped


def noise(repeats: Sequence[Score], asked: Mapping[str, float]) -> Finding:
    """Calibration of a metric's standard errors, pooled over autoencoders.

    Args:
        repeats: several scores of each autoencoder, on samples that share nothing.
        asked: ``ratio_least``, ``ratio_most``, ``repeats_least``.

    Returns:
        The observed standard deviation over the root mean square of stated standard errors, with the interval from the
        chi-squared distribution of a variance; in the details the coefficient of variation.
    """
    by_sae = [its for its in grouped(repeats, lambda each: each.subject.sae).values() if len(its) >= asked["repeats_least"]]
    if not by_sae:
        return unknown("noise", f"There are fewer than {asked['repeats_least']:.0f} repeats of an autoencoder.")
    values = [array([each.value for each in its]) for its in by_sae]
    freedom = sum(len(each) - 1 for each in values)
    spread = float(np.sqrt(sum(((each - each.mean()) ** 2).sum() for each in values) / freedom))
    mean = float(np.mean([abs(each.mean()) for each in values]))
    details = {"spread": spread, "coefficient_of_variation": spread / mean if mean else None, "degrees_of_freedom": freedom}
    errors = [each.error for its in by_sae for each in its]
    if any(each is None for each in errors):
        return Finding("noise", "not known", "The metric states no standard error.", details=details)
    stated = float(np.sqrt(np.mean(array(errors) ** 2)))
    if stated == 0:
        words = "The stated standard error is 0" + (" and nothing varies." if spread == 0 else ", but repeats differ.")
        return Finding("noise", "not known" if spread == 0 else "failed", words, details=details)
    ratio = spread / stated
    low, high = (float(ratio * np.sqrt(freedom / chi2.ppf(q, freedom))) for q in (0.975, 0.025))
    outcome: Outcome = "passed" if asked["ratio_least"] <= ratio <= asked["ratio_most"] else "failed"
    words = f"Repeats spread by {ratio:.2f} times the stated standard error."
    return Finding("noise", outcome, words, ratio, low, high, details | {"stated": stated})
