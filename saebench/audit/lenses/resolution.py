"""Resolution and cost: the smallest difference that is detected, and what it takes. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saebench.audit.lenses.finding import Finding, array, unknown
from saebench.audit.scores import Score, grouped

DETECTED = 1.960 + 0.842
"""Normal quantiles of a two-sided test at 5 % and a power of 80 %."""


def resolution(repeats: Sequence[Score], tokens: int) -> Finding:
    """The smallest difference of two autoencoders that is found with 80 % power, from the observed spread of repeats.

    Args:
        repeats: several scores of each autoencoder on independent samples of ``tokens`` tokens.

    Returns:
        For one evaluation of each on samples of their own, which is an upper bound for paired ones. In the details seconds
        per autoencoder, and the tokens at which the difference halves, as errors fall with the root of the tokens.
    """
    several = [its for its in grouped(repeats, lambda each: each.subject.sae).values() if len(its) > 1]
    if not several:
        return unknown("resolution", "No autoencoder was evaluated again.")
    spread = float(np.sqrt(np.mean([array([each.value for each in its]).var(ddof=1) for its in several])))
    smallest = DETECTED * float(np.sqrt(2)) * spread
    seconds = float(np.median([each.seconds for each in repeats]))
    details = {"seconds": seconds, "tokens": tokens, "tokens_for_half": 4 * tokens}
    return Finding("resolution", "passed", f"Detects a difference of {smallest:.3g} in {seconds:.1f} s.", smallest,
                   details=details)  # fmt: skip
