"""Claims of papers, tested on results: an effect with its interval, a p value corrected for their number, and a verdict.

Sources: Gao et al. 2024 (arXiv 2406.04093), Bussmann et al. 2024 (BatchTopK), Rajamanoharan et al. 2024 (JumpReLU), and
Leask et al. 2025, which compares the three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from saebench.comparison.controls import LEVEL, alike, holm
from saebench.comparison.headline import L0, metric_value, trained_control
from saebench.comparison.samples import Sample, combine, sample
from saebench.comparison.verdicts import interval_of, p_of
from saebench.errors import SaebenchError
from saebench.results import Result

if TYPE_CHECKING:
    import pandas

MSE, CE = "reconstruction.normalised_mse", "downstream.ce_difference"


@dataclass(frozen=True)
class Claim:
    """A claim about results.

    Attributes:
        words: the claim; ``source``: where it is made.
        effect: what is estimated, in words; ``sign``: of the effect if the claim holds, 0 for a claim of equality.
        estimate: the effect from results, with how many SAEs are behind it; None where they do not allow it.
    """

    words: str
    source: str
    effect: str
    sign: Literal[-1, 0, 1]
    estimate: Callable[[Sequence[Result]], tuple[Sample, int] | None]


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its effect.

    Attributes:
        effect: None where the results do not allow the test; ``saes``: how many are behind it.
        interval: 95 %; ``p``: two-sided, and ``corrected`` after Holm over all tested claims.
        verdict: ``reproduced``, ``contradicted``, or ``cannot tell``.
    """

    claim: Claim
    effect: float | None
    saes: int
    interval: tuple[float, float] | None
    p: float | None
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        """By the sign of the effect, where the corrected p value is below 5 %; any such effect contradicts equality."""
        if self.effect is None or self.corrected is None or self.corrected >= LEVEL:
            return "cannot tell"
        return "reproduced" if self.effect * self.claim.sign > 0 else "contradicted"


def claims_on(results: Sequence[Result]) -> list[ClaimResult]:
    """Every claim of ``CLAIMS`` on the results of one benchmark; trained controls are left out.

    Raises:
        SaebenchError: no claim can be tested on them.
    """
    usual = [each for each in results if not trained_control(each)]
    found = []
    for claim in CLAIMS:
        made = claim.estimate(usual)
        if made is None:
            found.append(ClaimResult(claim, None, 0, None, None))
            continue
        effect, saes = made
        found.append(ClaimResult(claim, effect.value, saes, interval_of(effect), p_of(effect)))
    if all(each.effect is None for each in found):
        raise SaebenchError("No claim can be tested: give results of several architectures, sparsities or widths.")
    corrected = holm([each.p for each in found])
    return [replace(each, corrected=p) for each, p in zip(found, corrected, strict=True)]


def claim_frame(found: Sequence[ClaimResult]) -> pandas.DataFrame:
    """One row for each claim."""
    import pandas

    rows = []
    for each in found:
        low, high = each.interval or (None, None)
        rows.append(
            {
                "claim": each.claim.words, "source": each.claim.source, "effect": each.claim.effect, "value": each.effect,
                "low": low, "high": high, "saes": each.saes, "p_holm": each.corrected, "verdict": each.verdict,
            }
        )  # fmt: skip
    return pandas.DataFrame(rows)


def difference(metric: str, first: str, second: str) -> Callable[[Sequence[Result]], tuple[Sample, int] | None]:
    """The mean difference of a metric, first architecture minus second, over pairs of equal width and nearly equal L0."""

    def estimate(results: Sequence[Result]) -> tuple[Sample, int] | None:
        pairs = [
            (a, b)
            for a in results
            for b in results
            if (a.sae.architecture, b.sae.architecture) == (first, second) and alike(a, b)
        ]
        samples = [(sample(a, metric), sample(b, metric)) for a, b in pairs]
        known = [(x, y) for x, y in samples if x is not None and y is not None]
        if not known:
            return None
        share = 1 / len(known)
        return combine([each for x, y in known for each in ((share, x), (-share, y))]), 2 * len(known)

    return estimate


def slope(
    metric: str, over: Callable[[Result], float], kept: Callable[[Result], object], other: str | None = None
) -> Callable[[Sequence[Result]], tuple[Sample, int] | None]:
    """The slope of a metric's logarithm over a logarithm, within groups of results, by least squares.

    Args:
        metric: must be positive.
        over: what it is taken over, such as L0.
        kept: what the results of a group have in common.
        other: a metric whose slope is subtracted.
    """

    signs = {metric: 1.0} | ({other: -1.0} if other else {})

    def estimate(results: Sequence[Result]) -> tuple[Sample, int] | None:
        groups: dict[object, list[Result]] = {}
        for result in results:
            if all((metric_value(result, path) or 0.0) > 0 for path in signs):
                groups.setdefault(kept(result), []).append(result)
        weighted: list[tuple[float, Sample]] = []
        spread, used = 0.0, 0
        for members in groups.values():
            if min(over(each) for each in members) <= 0:
                continue
            places = [math.log(over(each)) for each in members]
            if max(places) - min(places) < math.log(1.2):
                continue
            mean = sum(places) / len(places)
            spread += sum((place - mean) ** 2 for place in places)
            used += len(members)
            weighted += [
                (sign * (place - mean), its.log())
                for place, result in zip(places, members, strict=True)
                for path, sign in signs.items()
                if (its := sample(result, path)) is not None
            ]
        if not spread:
            return None
        return combine([(weight / spread, each) for weight, each in weighted]), used

    return estimate


def _l0(result: Result) -> float:
    return metric_value(result, L0) or 0.0


def _width(result: Result) -> float:
    return float(result.sae.n_latents)


def _same_width(result: Result) -> object:
    return result.sae.architecture, result.sae.n_latents


def _same_sparsity(result: Result) -> object:
    return result.sae.architecture, round(4 * math.log2(max(_l0(result), 1)))


GAO = "Gao et al. 2024"
CLAIMS = (
    Claim("TopK reconstructs better than ReLU at equal L0", f"{GAO}, 2.3", "normalised MSE, TopK minus ReLU", -1,
          difference(MSE, "topk", "relu")),
    Claim("TopK raises the loss less than ReLU at equal L0", f"{GAO}, 4.1", "CE difference in nats, TopK minus ReLU", -1,
          difference(CE, "topk", "relu")),
    Claim("BatchTopK reconstructs better than TopK at equal L0", "Bussmann et al. 2024",
          "normalised MSE, BatchTopK minus TopK", -1, difference(MSE, "batchtopk", "topk")),
    Claim("BatchTopK raises the loss less than TopK at equal L0", "Leask et al. 2025",
          "CE difference in nats, BatchTopK minus TopK", -1, difference(CE, "batchtopk", "topk")),
    Claim("JumpReLU reconstructs at least as well as TopK at equal L0", "Rajamanoharan et al. 2024",
          "normalised MSE, JumpReLU minus TopK", -1, difference(MSE, "jumprelu", "topk")),
    Claim("BatchTopK and JumpReLU reconstruct equally well", "Leask et al. 2025",
          "normalised MSE, BatchTopK minus JumpReLU", 0, difference(MSE, "batchtopk", "jumprelu")),
    Claim("ReLU shrinks activations more than TopK", f"{GAO}, 5.1", "refined over encoded values, ReLU minus TopK", 1,
          difference("shrinkage.value_ratio", "relu", "topk")),
    Claim("The error falls as k grows", f"{GAO}, 3.1", "slope of log normalised MSE over log L0", -1,
          slope(MSE, _l0, _same_width)),
    Claim("The error falls as n grows", f"{GAO}, 3.1", "slope of log normalised MSE over log n", -1,
          slope(MSE, _width, _same_sparsity)),
    Claim("The downstream loss falls faster than the error as k grows", f"{GAO}, 4.1",
          "slope of log CE difference minus that of log normalised MSE, over log L0", -1, slope(CE, _l0, _same_width, MSE)),
    Claim("The downstream loss falls faster than the error as n grows", f"{GAO}, 4.1",
          "slope of log CE difference minus that of log normalised MSE, over log n", -1,
          slope(CE, _width, _same_sparsity, MSE)),
    Claim("The probe loss falls as n grows", f"{GAO}, 4.2", "slope of log probe loss over log n", -1,
          slope("probe_loss.probe_loss", _width, _same_sparsity)),
    Claim("Explanations have a higher recall as n grows", f"{GAO}, 4.3", "slope of log N2G recall over log n", 1,
          slope("explainability.recall", _width, _same_sparsity)),
    Claim("Effects of latents are sparser as n grows", f"{GAO}, 4.5", "slope of log ablation sparsity over log n", -1,
          slope("ablation.sparsity", _width, _same_sparsity)),
    Claim("Effects of latents are less sparse as k grows", f"{GAO}, 4.5", "slope of log ablation sparsity over log L0", 1,
          slope("ablation.sparsity", _l0, _same_width)),
)  # fmt: skip
"""The direction of a claim of equality is arbitrary: only ``cannot tell`` is in agreement with it."""
