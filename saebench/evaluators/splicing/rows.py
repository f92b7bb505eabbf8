"""Downstream losses of several reconstructions of the same tokens, on a random sample of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Setup, TokenBlock
from saebench.evaluators.downstream import Downstream, clean_batch
from saebench.lm import Prefix
from saebench.results.statistics import Estimate, RowSums, digits, ratio_estimate, read_columns


class SplicedRows:
    """Collects the sampled rows during a pass over the corpus, and splices each variant into them.

    Rows are identified by their tokens, so that the sample does not depend on batches; a row that occurs twice is sampled
    twice.

    Args:
        setup: of the evaluator.
        rows: how many to sample, from the setup's seed.
        variants: names of the reconstructions that are given for each block.
    """

    summed = ("_losses", "_rows")

    def __init__(self, setup: Setup, rows: int, variants: Sequence[str]) -> None:
        self._setup = setup
        drawn = sampled_rows(setup, rows)
        self._sample = setup.corpus.tokens[drawn]
        self._rows = drawn if setup.rows is None else drawn[torch.isin(drawn, setup.rows)]
        plain = replace(setup, options={})
        self._losses = {name: Downstream(plain) for name in variants}
        self._parts: dict[str, list[Tensor]] = {}
        self._places: list[tuple[Tensor, Tensor]] = []
        self._number = torch.zeros(0, dtype=torch.int64)
        self._batch: CleanBatch | None = None

    def start_batch(self, batch: CleanBatch) -> None:
        """Find the sampled rows of a batch."""
        self._batch = batch
        known = (batch.tokens.cpu().unsqueeze(1) == self._sample.unsqueeze(0)).all(dim=2).any(dim=1)
        self._number = torch.where(known, known.cumsum(0) - 1, -1)
        self._parts, self._places = {name: [] for name in self._losses}, []

    def observe(self, block: TokenBlock, variant: str, reconstruction: Tensor) -> None:
        """Add a variant's reconstruction of a block, ``[tokens, d_out]``; only sampled rows are kept."""
        rows = self._number.to(block.rows.device)[block.rows]
        keep = rows >= 0
        if bool(keep.any()):
            self._parts[variant].append(reconstruction[keep])
            if variant == next(iter(self._losses)):
                self._places.append((rows[keep], block.positions[keep]))

    def end_batch(self) -> None:
        """Run the layers above for the batch's clean rows, and for the variants, several together."""
        batch, self._batch = self._batch, None
        assert batch is not None, "no batch was started"
        if not self._places:
            return
        chosen, cut = (self._number >= 0).nonzero().flatten(), self._setup.cut
        prefix, readout = _rows(batch.prefix, chosen), cut.model.readout
        clean = CleanBatch(batch.tokens[chosen], batch.counted[chosen], batch.loss_mask[chosen], prefix)
        if readout is None:
            clean = clean_batch(clean, cut.suffix(prefix.outputs, prefix))
            for name, logits in self._spliced(batch, chosen, cut.suffix):
                self._losses[name].splice(clean, logits)
        else:
            ends = dict(self._spliced(batch, chosen, cut.suffix_end))
            end = cut.suffix_end(prefix.outputs, prefix)
            entropy, losses = readout.compare(end, list(ends.values()), clean.tokens)
            for name, its in zip(ends, losses, strict=True):
                self._losses[name].compare(replace(clean, cross_entropy=entropy), its)
        self._parts, self._places = {}, []

    def _spliced(
        self, batch: CleanBatch, chosen: Tensor, run: Callable[[Tensor, Prefix], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """What ``run``, the layers above, gives for each variant in the ``chosen`` rows; several variants run together."""
        rows, positions = (torch.cat(each) for each in zip(*self._places, strict=True))
        names, count = list(self._losses), len(chosen)
        together = max(1, batch.tokens.shape[0] // count)  # no more rows at a time than the batch has
        for start in range(0, len(names), together):
            part = names[start : start + together]
            prefix = _rows(batch.prefix, chosen.repeat(len(part)))
            outputs = prefix.outputs.clone()
            for number, name in enumerate(part):
                outputs[number * count + rows, positions] = torch.cat(self._parts[name]).to(outputs.dtype)
            yield from zip(part, run(outputs, prefix).split(count), strict=True)

    def merge(self, other: SplicedRows) -> None:
        """Add the sums of an instance that was updated with later rows."""
        for name, losses in self._losses.items():
            losses.merge(other._losses[name])
        self._rows = torch.cat([self._rows, other._rows]).unique()

    def losses(self) -> RowLosses:
        """The sums by sampled row."""
        return RowLosses({name: losses.sums for name, losses in self._losses.items()}, self._rows.tolist())


class RowLosses:
    """Sums by row of the losses of several variants.

    Args:
        sums: by variant, of ``COLUMNS``; the rows are the same.
        rows: their numbers in the corpus.
    """

    COLUMNS = ("predictions", "ce_clean", "positions")
    OF_VARIANT = ("ce_spliced", "kl_divergence")

    def __init__(self, sums: Mapping[str, RowSums], rows: Sequence[int] = ()) -> None:
        self._sums, self._rows = dict(sums), list(rows)

    @classmethod
    def read(cls, record: Any, variants: Sequence[str]) -> RowLosses:
        """From a ``record``, which may come from a stranger.

        Raises:
            ValueError: it is not such a record.
        """
        names = [*cls.COLUMNS, *(f"{column} {name}" for name in variants for column in cls.OF_VARIANT)]
        columns = dict(zip(names, read_columns(record, names).unbind(dim=1), strict=True))
        found = {}
        for name in variants:
            found[name] = RowSums((*cls.COLUMNS, *cls.OF_VARIANT))
            own = {column: columns[f"{column} {name}"] for column in cls.OF_VARIANT}
            found[name].add(**{column: columns[column] for column in cls.COLUMNS}, **own)
        return cls(found)

    def record(self) -> dict[str, Any]:
        """JSON data: ``rows_per_group``, predictions, clean loss and positions, and the losses of each variant."""
        first = next(iter(self._sums.values()))
        found: dict[str, Any] = {"row": self._rows, "rows_per_group": first.rows_per_group}
        found |= {name: digits(first.column(name)) for name in self.COLUMNS}
        for variant, sums in self._sums.items():
            found |= {f"{name} {variant}": digits(sums.column(name)) for name in self.OF_VARIANT}
        return found

    def count(self, counted: str) -> int:
        """``predictions`` behind each cross-entropy, or ``positions`` behind each divergence."""
        return int(next(iter(self._sums.values())).total(counted))

    def ce_difference(self, weights: Mapping[str, float]) -> Estimate:
        """Spliced minus clean cross-entropy in nats, of one variant or of a weighted sum of several."""
        first = next(iter(self._sums.values()))
        total = torch.zeros_like(first.column("predictions"))
        for name, weight in weights.items():
            sums = self._sums[name]
            total = total + weight * (sums.column("ce_spliced") - sums.column("ce_clean"))
        return ratio_estimate(total, first.column("predictions"))

    def kl_divergence(self, variant: str) -> Estimate:
        """KL(clean || spliced) in nats."""
        return self._sums[variant].ratio("kl_divergence", "positions")


def sampled_rows(setup: Setup, rows: int) -> Tensor:
    """Indices of up to ``rows`` rows of the corpus, sampled with the setup's seed, in order."""
    generator = torch.Generator().manual_seed(setup.seed)
    return torch.randperm(setup.corpus.tokens.shape[0], generator=generator)[:rows].sort().values


def _rows(prefix: Prefix, chosen: Tensor) -> Prefix:
    chosen = chosen.to(prefix.outputs.device)
    return Prefix(prefix.tokens[chosen], prefix.inputs[chosen], prefix.outputs[chosen], prefix.residual[chosen])
