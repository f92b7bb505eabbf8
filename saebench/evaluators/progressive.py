"""How a code degrades with fewer latents, and whether more latents improve it.

Source: Gao et al. 2024, section 5.3. Reconstruction and downstream loss are measured with only the ``k'`` largest latents
of each token, with a fixed threshold for all tokens, and for Matryoshka autoencoders with each nested prefix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.codes.recovery import Levels, by_count, by_threshold, find_levels, prefix_sizes
from saebench.evaluators.splicing.rows import SplicedRows
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, RowSums, ratio_estimate
from saebench.sae import SparseAutoencoder, SparseLatents

RULES = {"count": "the k' largest latents of each token", "threshold": "one threshold for all tokens"}


class Progressive(StreamingEvaluator):
    """Reconstruction and downstream loss at several levels of sparsity."""

    name = "progressive"
    version = 1
    description = "Reconstruction and loss with fewer latents, with more, with a fixed threshold, by prefix"
    defaults: ClassVar[dict[str, int]] = {"downstream_rows": 8, "calibration_rows": 8}
    """Rows of text on which losses are measured, and on which levels and thresholds are chosen before the pass."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.prefixes = self._prefixes()
        self._levels: Levels | None = None
        self._sums: RowSums | None = None
        self._spliced: SplicedRows | None = None

    def _prefixes(self) -> dict[str, SparseAutoencoder]:
        sae = self.setup.sae
        return {f"prefix {size}": sae.prefix(size) for size in prefix_sizes(sae) if isinstance(sae, SparseAutoencoder)}

    def _start(self) -> None:
        """Choose levels on the first batch, so that an error there counts as a failure of this evaluator alone."""
        self._levels = find_levels(self.setup, self.options["calibration_rows"])
        names = [f"{rule} {count}" for rule in RULES for count in self._levels.counts] + list(self.prefixes)
        self._sums = RowSums(("tokens", *(f"{kind} {name}" for name in names for kind in ("error", "l0"))))
        self._spliced = SplicedRows(self.setup, self.options["downstream_rows"], names)

    @property
    def levels(self) -> Levels:
        """The levels; known after the first ``start_batch``."""
        assert self._levels is not None, "nothing was observed"
        return self._levels

    @property
    def sums(self) -> RowSums:
        """Per row of text: tokens, and squared error and L0 of each variant."""
        assert self._sums is not None, "nothing was observed"
        return self._sums

    @property
    def spliced(self) -> SplicedRows:
        """Losses of each variant on the sampled rows."""
        assert self._spliced is not None, "nothing was observed"
        return self._spliced

    def start_batch(self, batch: CleanBatch) -> None:
        """Start a batch."""
        if self._levels is None:
            self._start()
        self.sums.start_batch(batch.tokens.shape[0])
        self.spliced.start_batch(batch)

    def end_batch(self) -> None:
        """Finish a batch, and measure the losses of its sampled rows."""
        self.sums.end_batch()
        self.spliced.end_batch()

    def observe(self, block: TokenBlock) -> None:
        """Encode and decode a block at every level."""
        values: dict[str, Tensor] = {"tokens": torch.ones_like(block.rows)}
        for name, latents, reconstruction in self._variants(block):
            values[f"error {name}"] = (reconstruction - block.targets).square().sum(dim=1)
            values[f"l0 {name}"] = latents.l0()
            self.spliced.observe(block, name, reconstruction)
        self.sums.scatter(block.rows, **values)

    def _variants(self, block: TokenBlock) -> Iterator[tuple[str, SparseLatents, Tensor]]:
        sae, inputs = self.setup.sae, block.inputs
        for rule, codes in (("count", by_count), ("threshold", by_threshold)):
            for count, latents in codes(sae, inputs, block.latents, self.levels):
                yield f"{rule} {count}", latents, sae.decode(latents, inputs).float()
        for name, prefix in self.prefixes.items():
            latents = prefix.encode(inputs)
            yield name, latents, prefix.decode(latents, inputs).float()

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums, which must have the same levels."""
        assert isinstance(other, Progressive) and other.levels == self.levels
        self.sums.merge(other.sums)
        self.spliced.merge(other.spliced)

    def compute(self) -> EvaluatorResult:
        """Areas under the curves, errors above the autoencoder's own level, and the curves."""
        own = self.levels.own_count
        names = {rule: [f"{rule} {count}" for count in self.levels.counts if count <= own] for rule in RULES}
        metrics = [
            self._error_area("normalised_mse_area", names["count"], RULES["count"]),
            self._error_area("threshold_normalised_mse_area", names["threshold"], RULES["threshold"]),
            self._loss_area("ce_difference_area", names["count"], RULES["count"]),
            self._loss_area("threshold_ce_difference_area", names["threshold"], RULES["threshold"]),
            self._error_area("prefix_normalised_mse_area", list(self.prefixes), "nested prefixes", self._no_prefixes()),
            *self._beyond(),
        ]
        details: dict[str, Any] = {"own_l0": self.levels.own}
        details |= {f"by_{rule}": self._curve([f"{rule} {count}" for count in self.levels.counts]) for rule in RULES}
        details["by_count"]["level"] = details["by_threshold"]["level"] = list(self.levels.counts)
        details["by_threshold"]["threshold"] = [float(f"{value:.7g}") for value in self.levels.thresholds]
        if self.prefixes:
            details["by_prefix"] = self._curve(list(self.prefixes))
            details["by_prefix"]["latents"] = [sae.n_latents for sae in self.prefixes.values()]
        return self.result(metrics, details, dict(self.options))

    def _no_prefixes(self) -> str | None:
        return None if self.prefixes else "the autoencoder has no nested prefixes"

    def _error_area(self, name: str, names: list[str], words: str, reason: str | None = None) -> Metric:
        weights = self._weights(names, by_size=name.startswith("prefix"))
        total = sum((weight * self.sums.column(f"error {each}") for each, weight in weights.items()), torch.zeros(1))
        estimate = ratio_estimate(total, self.setup.shared.moments.variance_by_row()) if weights else Estimate(None, None)
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
            self.spliced.ce_difference(weights) if weights else Estimate(None, None),
            unit="nats",
            direction="lower",
            n=self.spliced.count("predictions"),
            description=f"Mean spliced minus clean cross-entropy over log2 L0 up to its own, with {words}",
            reason=_ONE_LEVEL if not weights else "no prediction counts in the sampled rows",
        )

    def _beyond(self) -> Iterator[Metric]:
        own = self.levels.own_count
        for times in (2, 4):
            there = own * times in self.levels.counts
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
        sizes = [float(self.prefixes[name].n_latents) if by_size else self._l0(name) for name in names]
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
        variance = self.setup.shared.moments.variance_by_row()
        errors = [ratio_estimate(self.sums.column(f"error {name}"), variance) for name in names]
        losses = [self.spliced.ce_difference({name: 1.0}) for name in names]
        divergences = [self.spliced.kl_divergence(name) for name in names]
        return {
            "l0": [_digits(self._l0(name)) for name in names],
            **_columns("normalised_mse", errors),
            **_columns("ce_difference", losses),
            **_columns("kl_divergence", divergences),
        }


_ONE_LEVEL = "the autoencoder has a single level: fewer than two latents are active"


def _columns(name: str, estimates: list[Estimate]) -> dict[str, list[float | None]]:
    return {
        name: [_digits(each.value) for each in estimates],
        f"{name}_standard_error": [_digits(each.standard_error) for each in estimates],
    }


def _digits(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")
