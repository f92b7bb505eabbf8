"""Figures of the language model alone: computed once for all evaluated autoencoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.lm import Cut
from saebench.results.statistics import RowSums

if TYPE_CHECKING:
    from saebench.text.corpus import TokenCorpus

T = TypeVar("T")
LOGIT_CHUNK = 32
"""Rows of logits processed at once: 6 MiB at a vocabulary of 49,152, so that passes over them stay in the cache."""


class Moments:
    """First and second moments of the target activations.

    Sums are taken about a reference point (the mean of the first batch), which keeps them exact where the mean is large
    relative to the spread. All sums are also kept by position and by frequency of the token.

    Attributes:
        reference: ``[d]`` float64, the reference point.
        count: tokens counted.
    """

    def __init__(self, positions: int, frequency_bins: int) -> None:
        self.reference: Tensor | None = None
        self.count = 0
        self._rows: RowSums | None = None  # per row of text: tokens, squared distances, sums of the d coordinates
        self._unit_sum: Tensor | None = None
        self._by: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._sizes = {"position": positions, "frequency": frequency_bins}

    def update(self, targets: Tensor, rows: Tensor, n_rows: int, groups: dict[str, Tensor]) -> None:
        """Add a batch.

        Args:
            targets: ``[tokens, d]``, the counted activations.
            rows: ``[tokens]``, each token's row of text within the batch; ``n_rows``, the number of rows.
            groups: ``position`` and ``frequency``: each token's group, ``[tokens]``.
        """
        if self.reference is None:
            self._start(targets)
        assert self.reference is not None and self._rows is not None and self._unit_sum is not None
        centred = (targets - self.reference.to(targets.dtype)).double()
        squares = centred.square().sum(dim=1, keepdim=True)
        by_row = centred.new_zeros(n_rows, targets.shape[1] + 2)
        by_row.index_add_(0, rows, torch.cat([torch.ones_like(squares), squares, centred], dim=1))
        self._rows.add_rows(by_row.cpu())
        self.count += targets.shape[0]
        unit = F.normalize(targets - targets.mean(dim=1, keepdim=True), dim=1, eps=1e-12)
        self._unit_sum += unit.sum(dim=0, dtype=torch.float64)
        for name, group in groups.items():
            counts, squares_by, sums_by = self._by[name]
            counts += torch.bincount(group, minlength=counts.numel())
            squares_by.index_add_(0, group, squares.squeeze(1))
            sums_by.index_add_(0, group, centred)

    def _start(self, targets: Tensor) -> None:
        d = targets.shape[1]
        self.reference = targets.double().mean(dim=0)
        self._rows = RowSums(("tokens", "squares", *map(str, range(d))))
        self._unit_sum = torch.zeros(d, dtype=torch.float64, device=targets.device)
        for name, size in self._sizes.items():
            zeros = torch.zeros(size, dtype=torch.float64, device=targets.device)
            self._by[name] = (zeros, zeros.clone(), zeros.new_zeros(size, d))

    @property
    def mean(self) -> Tensor:
        """``[d]`` float64: the mean activation."""
        assert self.reference is not None
        return self.reference + self._shift()

    @property
    def variance(self) -> float:
        """Sum over tokens of the squared distance from the mean activation."""
        return float(self.variance_by_row().sum())

    def variance_by_row(self) -> Tensor:
        """``[groups]`` float64: that sum for each row of text, or group of rows, as ``RowSums`` keeps them."""
        assert self._rows is not None
        groups, shift = self._rows.groups(), self._shift().cpu()
        return groups[:, 1] - 2 * (groups[:, 2:] @ shift) + groups[:, 0] * shift.square().sum()

    def _shift(self) -> Tensor:
        """``[d]``: the mean relative to the reference point."""
        assert self._rows is not None and self.reference is not None
        return (self._rows.groups()[:, 2:].sum(dim=0) / max(self.count, 1)).to(self.reference.device)

    @property
    def unit_variance(self) -> float:
        """The same for activations with their own mean over ``d`` removed and scaled to unit norm (Gao et al., 2.1)."""
        assert self._unit_sum is not None
        return self.count - float(self._unit_sum.square().sum()) / self.count

    def variance_by(self, name: str) -> tuple[Tensor, Tensor]:
        """``(counts, variances)`` by group, ``[groups]`` each; distances are from the mean over all tokens."""
        counts, squares, sums = self._by[name]
        shift = self._shift()
        return counts, squares - 2 * (sums @ shift) + counts * float(shift.square().sum())


@dataclass
class Shared:
    """Figures that the evaluators of all autoencoders on a hook share.

    Attributes:
        moments: of the activations at the output hook.
        parts: of an autoencoder that writes at several places, the part of the activations at each and its moments.
        ablated: row sums of the model with its activations replaced by 0 (``zero``) and by their mean (``mean``), in
            the same rows; filled once the mean is known.
        frequency_bin: ``[vocabulary]``, each token's group by its frequency in the corpus.
        frequency_edges: the groups' lower bounds, as counts.
    """

    moments: Moments
    parts: dict[str, tuple[slice, Moments]]
    frequency_bin: Tensor
    frequency_edges: list[int]
    ablated: dict[str, RowSums] = field(default_factory=dict)
    _once: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, computed for the first autoencoder that needs it.

        ``key`` names all that it depends on besides the language model, the hook and the text.
        """
        if key not in self._once:
            self._once[key] = compute()
        found: T = self._once[key]
        return found


def make_shared(corpus: TokenCorpus, vocabulary: int, parts: Mapping[str, slice] | None = None) -> Shared:
    """Start the shared figures for a corpus: tokens are grouped by their frequency in it, in powers of four.

    ``parts`` are those of the cut.
    """
    counts = torch.bincount(corpus.tokens.flatten(), minlength=vocabulary)
    edges = [4**power for power in range(int(counts.max()).bit_length() // 2 + 1)]
    bins = torch.bucketize(counts.clamp_min(1), torch.tensor(edges), right=True) - 1
    return Shared(
        moments=Moments(corpus.tokens.shape[1], len(edges)),
        parts={name: (part, Moments(corpus.tokens.shape[1], len(edges))) for name, part in (parts or {}).items()},
        frequency_bin=bins,
        frequency_edges=edges,
    )


def ablated_losses(cut: Cut, corpus: TokenCorpus, values: dict[str, Tensor], rows_per_batch: int) -> dict[str, RowSums]:
    """Cross-entropies of the model with each of ``values`` (``[d_out]``) in place of the activations at counted positions.

    Where the cut is in the residual stream, what the layers above compute depends on a row only through the positions
    that are excluded (they keep their clean activations), so rows that agree up to the last such position share one
    forward pass: with a BOS token at the start of each row, that is one pass for the whole corpus.
    """
    groups = [torch.tensor([row]) for row in range(corpus.tokens.shape[0])]
    if cut.hook_out.is_residual:
        groups = rows_by_excluded_past(corpus.tokens, corpus.excluded)
    losses = {name: torch.zeros(corpus.tokens.shape[0], dtype=torch.float64) for name in values}
    for start in range(0, len(groups), rows_per_batch):
        some = groups[start : start + rows_per_batch]
        first = torch.stack([rows[0] for rows in some])
        prefix = cut.prefix(corpus.tokens[first])
        keep = corpus.excluded[first].to(prefix.outputs.device).unsqueeze(-1)
        for name, value in values.items():
            logits = cut.suffix(torch.where(keep, prefix.outputs, value.to(prefix.outputs)), prefix)
            for each, rows in zip(logits, some, strict=True):
                losses[name][rows] = _losses_of_rows(each, corpus, rows)
    found = {}
    for name, each in losses.items():
        found[name] = RowSums(("cross_entropy", "predictions"))
        found[name].add(cross_entropy=each, predictions=corpus.loss_mask.sum(dim=1))
    return found


def rows_by_excluded_past(tokens: Tensor, excluded: Tensor) -> list[Tensor]:
    """Row numbers of ``[rows, context]``, grouped by their excluded positions and the tokens up to the last of them."""
    found: dict[tuple[bytes, bytes], list[int]] = {}
    for index, (own, out) in enumerate(zip(tokens, excluded, strict=True)):
        places = out.nonzero()
        past = own[: int(places[-1]) + 1] if places.numel() else own[:0]
        found.setdefault((out.numpy().tobytes(), past.numpy().tobytes()), []).append(index)
    return [torch.tensor(rows) for rows in found.values()]


def _losses_of_rows(logits: Tensor, corpus: TokenCorpus, rows: Tensor) -> Tensor:
    """``[rows]`` float64: summed losses of rows that have the same ``logits`` (``[context, V]``)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    targets = corpus.tokens[rows][:, 1:].to(logits.device)
    positions = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
    losses = -log_probabilities[positions, targets]
    return (losses.double() * corpus.loss_mask[rows].to(losses.device)).sum(dim=1).cpu()
