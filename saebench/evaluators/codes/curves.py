"""The metrics of ``progressive`` from its sums: of a pass, or of a result's details."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.splicing.rows import RowLosses
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, RowSums, ratio_estimate, rounded

RULES = {"count": "the k' largest latents of each token", "threshold": "one threshold for all tokens"}


def variants(counts: Sequence[int], prefixes: Iterable[str]) -> list[str]:
    """Names of all levels of all rules, then of the prefixes."""
    return [f"{rule} {count}" for rule in RULES for count in counts] + list(prefixes)


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the sums by row."""
    return ("tokens", *(f"{kind} {name}" for name in names for kind in ("error", "l0")))


@dataclass(frozen=True)
class Curves:
    """Errors and losses by level.

    Attributes:
        counts: the levels; ``own``: the autoencoder's.
        prefixes: number of latents of each nested prefix, by name.
        sums: by row, of ``columns``; ``variance``: ``[rows]``, of the targets.
        losses: by sampled row.
    """

    counts: tuple[int, ...]
    own: int
    prefixes: Mapping[str, int]
    sums: RowSums
    variance: Tensor
    losses: RowLosses

    def metrics(self) -> list[Metric]:
        """Areas under the curves, and errors above the autoencoder's own level."""
        names = {rule: [f"{rule} {count}" for count in self.counts if count <= self.own] for rule in RULES}
        return [
            self._error_area("normalised_mse_area", names["count"], RULES["count"]),
            self._error_area("threshold_normalised_mse_area", names["threshold"], RULES["threshold"]),
            self._loss_area("ce_difference_area", names["count"], RULES["count"]),
            self._loss_area("threshold_ce_difference_area", names["threshold"], RULES["threshold"]),
            self._error_area("prefix_normalised_mse_area", list(self.prefixes), "nested prefixes", self._no_prefixes()),
            *self._beyond(),
        ]

    def curves(self) -> dict[str, dict[str, list[Any]]]:
        """Numbers of latents, L0, errors and losses of every level, by rule."""
        found = {f"by_{rule}": self._curve([f"{rule} {count}" for count in self.counts]) for rule in RULES}
        for each in found.values():
            each["level"] = list(self.counts)
        if self.prefixes:
            found["by_prefix"] = {**self._curve(list(self.prefixes)), "latents": list(self.prefixes.values())}
        return found

    def _no_prefixes(self) -> str | None:
        return None if self.prefixes else "the autoencoder has no nested prefixes"

    def _error_area(self, name: str, names: list[str], words: str, reason: str | None = None) -> Metric:
        weights = self._weights(names, by_size=name.startswith("prefix"))
        total = sum((weight * self.sums.column(f"error {each}") for each, weight in weights.items()), torch.zeros(1))
        estimate = ratio_estimate(total, self.variance) if weights else Estimate(None, None)
        over = "log2 of the number of latents" if name.startswith("prefix") else "log2 L0 up to its own"
        return metric(
            name,
            estimate,
            unit="1",
            direction="lower",
            n=int(self.sums.total("tokens")),
            description=f"Mean normalised MSE over {over}, with {words}",
            reason=reason or _ONE_LEVEL,
        )

    def _loss_area(self, name: str, names: list[str], words: str) -> Metric:
        weights = self._weights(names)
        return metric(
            name,
            self.losses.ce_difference(weights) if weights else Estimate(None, None),
            unit="nats",
            direction="lower",
            n=self.losses.count("predictions"),
            description=f"Mean spliced minus clean cross-entropy over log2 L0 up to its own, with {words}",
            reason=_ONE_LEVEL if not weights else "no prediction counts in the sampled rows",
        )

    def _beyond(self) -> Iterator[Metric]:
        own = self.own
        for times in (2, 4):
            there = own * times in self.counts
            estimate = Estimate(None, None)
            if there:
                more, at_own = (self.sums.column(f"error count {count}") for count in (own * times, own))
                estimate = ratio_estimate(more, at_own)
            yield metric(
                f"error_at_{times}k",
                estimate,
                unit="1",
                direction="lower",
                n=int(self.sums.total("tokens")),
                description=f"Squared error with {times} times as many latents, over that with its own number",
                reason="the reconstruction is exact"
                if there
                else "the autoencoder has no further pre-activations to let in",
            )

    def _l0(self, name: str) -> float:
        return self.sums.ratio(f"l0 {name}", "tokens").value or 0.0

    def _weights(self, names: list[str], by_size: bool = False) -> dict[str, float]:
        """Weights of the trapezoidal rule over log2 L0 (or the prefixes' sizes), for a mean; empty where there is no
        range."""
        sizes = [float(self.prefixes[name]) if by_size else self._l0(name) for name in names]
        points = [(math.log2(size), name) for size, name in zip(sizes, names, strict=True) if size > 0]
        span = points[-1][0] - points[0][0] if points else 0.0
        if span <= 0:
            return {}
        weights = dict.fromkeys((name for _, name in points), 0.0)
        for (left, one), (right, other) in pairwise(points):
            weights[one] += (right - left) / 2 / span
            weights[other] += (right - left) / 2 / span
        return weights

    def _curve(self, names: list[str]) -> dict[str, list[Any]]:
        errors = [ratio_estimate(self.sums.column(f"error {name}"), self.variance) for name in names]
        losses = [self.losses.ce_difference({name: 1.0}) for name in names]
        divergences = [self.losses.kl_divergence(name) for name in names]
        return {
            "l0": [rounded(self._l0(name)) for name in names],
            **_columns("normalised_mse", errors),
            **_columns("ce_difference", losses),
            **_columns("kl_divergence", divergences),
        }


_ONE_LEVEL = "the autoencoder has a single level: fewer than two latents are active"


def _columns(name: str, estimates: list[Estimate]) -> dict[str, list[float | None]]:
    return {
        name: [rounded(each.value) for each in estimates],
        f"{name}_standard_error": [rounded(each.standard_error) for each in estimates],
    }
