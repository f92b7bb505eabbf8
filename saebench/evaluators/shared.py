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

    @property
    def sizes(self) -> tuple[int, int]:
        """Positions and bins of frequency, as given."""
        return self._sizes["position"], self._sizes["frequency"]

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
        self.reference = targets.double().mean(dim=0).to(targets.dtype).double()  # as it is subtracted
        self._rows = RowSums(("tokens", "squares", *map(str, range(d))))
        self._unit_sum = torch.zeros(d, dtype=torch.float64, device=targets.device)
        for name, size in self._sizes.items():
            zeros = torch.zeros(size, dtype=torch.float64, device=targets.device)
            self._by[name] = (zeros, zeros.clone(), zeros.new_zeros(size, d))

    def tensors(self) -> dict[str, Tensor]:
        """All sums by name; empty where nothing was counted."""
        if self.reference is None or self._rows is None or self._unit_sum is None:
            return {}
        found = {"reference": self.reference, "count": torch.tensor(self.count), "unit_sum": self._unit_sum}
        found |= {f"rows/{name}": each for name, each in self._rows.tensors().items()}
        return found | {f"by/{name}/{place}": each for name, its in self._by.items() for place, each in enumerate(its)}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Replace the sums by those that ``tensors`` gave."""
        if not tensors:
            return
        self._start(tensors["reference"].to(device).unsqueeze(0))
        assert self._rows is not None
        self.count, self._unit_sum = int(tensors["count"]), tensors["unit_sum"].to(device)
        self._rows = RowSums.of_tensors(self._rows.names, {name: tensors[f"rows/{name}"] for name in ("groups", "grouping")})
        for name in self._by:
            counts, squares, sums = (tensors[f"by/{name}/{place}"].to(device) for place in range(3))
            self._by[name] = (counts, squares, sums)

    def merge(self, other: Moments) -> None:
        """Add the moments of later rows; they are taken about this one's reference point."""
        if other.reference is None:
            return
        assert self.reference is not None, "the first part counts at least one position"
        assert self._rows is not None and other._rows is not None
        assert self._unit_sum is not None and other._unit_sum is not None
        shift = other.reference - self.reference  # x - mine = (x - theirs) + shift
        moved = RowSums(self._rows.names)
        groups = other._rows.groups()
        counts, squares, sums = groups[:, :1], groups[:, 1:2], groups[:, 2:]
        moved_to = shift.cpu()
        squares = squares + 2 * (sums @ moved_to).unsqueeze(1) + counts * moved_to.square().sum()
        moved.rows_per_group, moved._filled = other._rows.rows_per_group, other._rows._filled
        moved._groups = list(torch.cat([counts, squares, sums + counts * moved_to], dim=1).unbind(dim=0))
        self._rows.merge(moved)
        self.count += other.count
        self._unit_sum += other._unit_sum
        for name, (own_counts, own_squares, own_sums) in self._by.items():
            counts, by_squares, by_sums = other._by[name]
            own_counts += counts
            own_squares += by_squares + 2 * (by_sums @ shift) + counts * shift.square().sum()
            own_sums += by_sums + counts.unsqueeze(1) * shift

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


def shared_tensors(shared: Shared) -> dict[str, Tensor]:
    """The moments of shared figures as tensors, by path."""
    every = {"all": shared.moments} | {f"part {name}": moments for name, (_, moments) in shared.parts.items()}
    return {f"{name}/{key}": each.cpu() for name, moments in every.items() for key, each in moments.tensors().items()}


def add_shared(shared: Shared, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Add the moments of later rows, as ``shared_tensors`` gave them."""
    every = {"all": shared.moments} | {f"part {name}": moments for name, (_, moments) in shared.parts.items()}
    for name, moments in every.items():
        own = {key.removeprefix(f"{name}/"): each for key, each in tensors.items() if key.startswith(f"{name}/")}
        if moments.reference is None:
            moments.restore(own, device)
        else:
            part = Moments(*moments.sizes)
            part.restore(own, device)
            moments.merge(part)


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
    groups = rows_ablated_alike(cut, corpus.tokens, corpus.excluded)
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


def rows_ablated_alike(cut: Cut, tokens: Tensor, excluded: Tensor) -> list[Tensor]:
    """Row numbers of ``[rows, context]``, grouped by what the layers above compute once activations are replaced."""
    if cut.hook_out.is_residual:
        return rows_by_excluded_past(tokens, excluded)
    return [torch.tensor([row]) for row in range(tokens.shape[0])]


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
