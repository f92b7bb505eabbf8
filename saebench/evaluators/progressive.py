"""How a code degrades with fewer latents, and whether more latents improve it.

Source: Gao et al. 2024, section 5.3. Reconstruction and downstream loss are measured with only the ``k'`` largest latents
of each token, with a fixed threshold for all tokens, and for Matryoshka autoencoders with each nested prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.codes.curves import Curves, columns, variants
from saebench.evaluators.codes.recovery import Levels, by_count, by_threshold, find_levels, own_count, prefix_sizes
from saebench.evaluators.splicing.rows import RowLosses, SplicedRows
from saebench.results import EvaluatorResult, Metric
from saebench.results.statistics import RowSums, digits, read_columns, rounded
from saebench.sae import SparseAutoencoder, SparseLatents


class Progressive(StreamingEvaluator):
    """Reconstruction and downstream loss at several levels of sparsity."""

    name = "progressive"
    version = 1
    description = "Reconstruction and loss with fewer latents, with more, with a fixed threshold, by prefix"
    defaults: ClassVar[dict[str, int]] = {"downstream_rows": 8, "calibration_rows": 8}
    """Rows of text on which losses are measured, and on which levels and thresholds are chosen before the pass."""

    samples = ("by_row", "by_sampled_row", "own_l0", "by_count", "by_prefix")
    summed = ("_sums", "_spliced")

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
        if self._levels is None:
            self._levels = find_levels(self.setup, self.options["calibration_rows"])
        names = variants(self._levels.counts, self.prefixes)
        self._sums = RowSums(columns(names))
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
        if self._sums is None:
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

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the sums; the levels are chosen as for the first batch."""
        if self._sums is None:
            self._start()
        super().restore(tensors)

    def empty(self) -> Progressive:
        """A new instance with the same levels."""
        found = type(self)(self.setup)
        found._levels = self._levels
        return found

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums, which must have the same levels."""
        assert isinstance(other, Progressive) and other.levels == self.levels
        self.sums.merge(other.sums)
        self.spliced.merge(other.spliced)

    def compute(self) -> EvaluatorResult:
        """Areas under the curves, errors above the autoencoder's own level, and the curves."""
        prefixes = {name: sae.n_latents for name, sae in self.prefixes.items()}
        variance = self.setup.shared.moments.variance_by_row()
        found = Curves(self.levels.counts, self.levels.own_count, prefixes, self.sums, variance, self.spliced.losses())
        details: dict[str, Any] = {"own_l0": self.levels.own, **found.curves()}
        details["by_threshold"]["threshold"] = [rounded(value) for value in self.levels.thresholds]
        details |= {"by_row": {"variance": digits(variance), **self.sums.record()}, "by_sampled_row": found.losses.record()}
        return self.result(found.metrics(), details, dict(self.options))

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row."""
        details = found.details
        counts = tuple(details["by_count"]["level"])
        prefixes = {f"prefix {size}": size for size in details.get("by_prefix", {}).get("latents", [])}
        if not all(type(count) is int and count > 0 for count in (*counts, *prefixes.values())):
            raise ValueError("levels are whole numbers from 1")
        names = variants(counts, prefixes)
        (variance,) = read_columns(details["by_row"], ["variance"]).unbind(dim=1)
        sums = RowSums.read(details["by_row"], columns(names))
        losses = RowLosses.read(details["by_sampled_row"], names)
        return Curves(counts, own_count(float(details["own_l0"])), prefixes, sums, variance, losses).metrics()
