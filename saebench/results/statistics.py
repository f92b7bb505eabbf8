"""Sums over rows of text, from which every mean gets its standard error.

Tokens of one row share a context and are not independent, so standard errors treat the row, not the token, as the unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_GROUPS = 4096
"""Up to this many rows are kept separately; beyond that neighbours are merged, so that memory is bounded."""
LATENT_GROUPS = 256
"""Means over latents are recorded as sums over at most this many groups of neighbouring latents."""


class Estimate(NamedTuple):
    """A number with its precision."""

    value: float | None
    standard_error: float | None


class RowSums:
    """Named sums, kept separately for each row of text (or group of neighbouring rows, once there are very many).

    The grouping depends on the order of the rows alone, not on the batches.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.rows_per_group = 1
        self._groups: list[Tensor] = []  # each [names], float64
        self._filled = 0  # rows in the last group
        self._batch = torch.zeros(0, len(self.names), dtype=torch.float64)

    @classmethod
    def read(cls, record: Any, names: Sequence[str]) -> RowSums:
        """The sums of a ``record``, which may come from a stranger.

        Raises:
            ValueError: a column is missing, has another length than the others, or holds something else than numbers.
        """
        sums = cls(names)
        sums._groups = list(read_columns(record, names).unbind(dim=0))
        size = record.get("rows_per_group", 1)
        if type(size) is not int or size < 1:
            raise ValueError("rows_per_group is no whole number from 1")
        sums.rows_per_group = sums._filled = size
        return sums

    def record(self) -> dict[str, Any]:
        """The sums as JSON data, with seven digits: ``rows_per_group`` and one list for each name."""
        return {"rows_per_group": self.rows_per_group, **{name: digits(self.column(name)) for name in self.names}}

    def tensors(self) -> dict[str, Tensor]:
        """The sums as tensors: ``groups`` (``[groups, names]``) and how rows are grouped."""
        return {"groups": self.groups(), "grouping": torch.tensor([self.rows_per_group, self._filled])}

    @classmethod
    def of_tensors(cls, names: Sequence[str], tensors: Mapping[str, Tensor]) -> RowSums:
        """The sums that ``tensors`` gave."""
        sums = cls(names)
        sums._groups = list(tensors["groups"].unbind(dim=0))
        sums.rows_per_group, sums._filled = map(int, tensors["grouping"])
        return sums

    def start_batch(self, rows: int) -> None:
        """Begin a batch of ``rows``."""
        self._batch = torch.zeros(rows, len(self.names), dtype=torch.float64)

    def scatter(self, rows: Tensor, **values: Tensor) -> None:
        """Add per-token values (``[tokens]`` each) to the rows of the batch they belong to (``rows``: ``[tokens]``)."""
        for name, value in values.items():
            self._batch[:, self.names.index(name)].index_add_(0, rows.cpu(), value.detach().double().cpu())

    def end_batch(self) -> None:
        """Close the batch: its rows are now counted."""
        self.add_rows(self._batch)
        self._batch = self._batch[:0]

    def add_rows(self, rows: Tensor) -> None:
        """Add whole rows in order: ``[rows, names]`` float64."""
        for row in rows:
            self._add_row(row)

    def add(self, **sums: Tensor) -> None:
        """Add whole rows in order: each of ``sums`` is ``[rows]``."""
        rows = next(iter(sums.values())).shape[0]
        self.start_batch(rows)
        self.scatter(torch.arange(rows), **sums)
        self.end_batch()

    def _add_row(self, row: Tensor) -> None:
        if self._groups and self._filled < self.rows_per_group:
            self._groups[-1] = self._groups[-1] + row
            self._filled += 1
            return
        if len(self._groups) == MOST_GROUPS:
            self._groups = [a + b for a, b in zip(self._groups[::2], self._groups[1::2], strict=True)]
            self.rows_per_group *= 2
        self._groups.append(row)
        self._filled = 1

    def merge(self, other: RowSums) -> None:
        """Append the rows of ``other``, in the coarser grouping of the two.

        The last group of each part may hold fewer rows than the others.
        """
        if self.names != other.names:
            raise ValueError(f"cannot merge sums of {other.names} into sums of {self.names}")
        size = max(self.rows_per_group, other.rows_per_group)
        groups = _coarser(self._groups, size // self.rows_per_group) + _coarser(other._groups, size // other.rows_per_group)
        while len(groups) > MOST_GROUPS:
            groups, size = _coarser(groups, 2), size * 2
        self._groups, self.rows_per_group, self._filled = groups, size, size

    def groups(self) -> Tensor:
        """``[groups, names]`` float64."""
        return torch.stack(self._groups) if self._groups else torch.zeros(0, len(self.names), dtype=torch.float64)

    def column(self, name: str) -> Tensor:
        """``[groups]`` float64: the sums of one name."""
        return self.groups()[:, self.names.index(name)]

    def total(self, name: str) -> float:
        """The sum over all rows."""
        return float(self.column(name).sum())

    def ratio(self, numerator: str, denominator: str) -> Estimate:
        """``sum(numerator) / sum(denominator)`` with its cluster-robust standard error (linearised ratio estimator)."""
        return ratio_estimate(self.column(numerator), self.column(denominator))


def _coarser(groups: list[Tensor], times: int) -> list[Tensor]:
    """Groups summed over runs of ``times`` neighbours."""
    return [torch.stack(groups[start : start + times]).sum(dim=0) for start in range(0, len(groups), times)]


def ratio_estimate(numerator: Tensor, denominator: Tensor) -> Estimate:
    """The ratio of two sums over groups (``[groups]`` each), with the standard error of a ratio estimator.

    With residuals ``r = a - R b``, the variance is ``G / (G - 1) * sum(r^2) / sum(b)^2`` over ``G`` groups (Cochran,
    Sampling Techniques, section 6.4). Null where the denominator is 0, without error where there is one group.
    """
    total = float(denominator.sum())
    if total == 0:
        return Estimate(None, None)
    value = float(numerator.sum()) / total
    return Estimate(value, influence_error(ratio_influence(numerator, denominator)))


def ratio_influence(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``[groups]``: what each group contributes to the error of the ratio of two sums: ``(a - R b) / sum(b)``.

    Linear: the influence of a difference of ratios over the same groups is the difference of their influences, which
    makes comparisons paired. The denominators must not sum to 0.
    """
    total = denominator.sum()
    return (numerator - numerator.sum() / total * denominator) / total


def influence_error(influence: Tensor) -> float | None:
    """The standard error of an estimate from its influence by group (``[groups]``); None for a single group."""
    groups = influence.numel()
    return None if groups < 2 else float(groups / (groups - 1) * influence.square().sum()) ** 0.5


def mean_estimate(values: Tensor) -> Estimate:
    """Mean of ``values`` with its standard error."""
    count = values.numel()
    if count == 0:
        return Estimate(None, None)
    error = float(values.double().std()) / count**0.5 if count > 1 else None
    return Estimate(float(values.double().mean()), error)


def mean_by_groups(values: Tensor) -> dict[str, Any]:
    """JSON data from which ``mean_estimate(values)`` (``[n]``) can be computed: counts and sums of neighbouring values.

    ``deviations`` are the sums of squared deviations from the mean of all values.
    """
    parts = values.double().cpu().tensor_split(max(1, min(LATENT_GROUPS, values.numel())))
    mean = values.double().mean().cpu() if values.numel() else torch.tensor(0.0)
    return {
        "count": [part.numel() for part in parts],
        "sum": digits(torch.stack([part.sum() for part in parts])),
        "deviations": digits(torch.stack([(part - mean).square().sum() for part in parts])),
    }


def mean_from_groups(record: Any) -> tuple[Estimate, int]:
    """``(the mean with its standard error, number of values)`` from ``mean_by_groups``.

    Raises:
        ValueError: it is not such data.
    """
    count, total, deviations = read_columns(record, ("count", "sum", "deviations")).sum(dim=0).tolist()
    if count < 1:
        return Estimate(None, None), 0
    error = (max(deviations, 0.0) / (count - 1) / count) ** 0.5 if count > 1 else None
    return Estimate(total / count, error), int(count)


def read_columns(record: Any, names: Sequence[str]) -> Tensor:
    """``[rows, names]`` float64: columns of a record from a result file.

    Raises:
        ValueError: a column is missing, has another length than the others, or holds something else than numbers.
    """
    if not isinstance(record, dict):
        raise ValueError("there are no sums")
    columns = []
    for name in names:
        values = record.get(name)
        if not isinstance(values, list) or not all(_is_number(value) for value in values):
            raise ValueError(f"the column {name} is missing or holds something else than numbers")
        columns.append(torch.tensor(values, dtype=torch.float64))
    if len({column.numel() for column in columns}) > 1:
        raise ValueError("the columns differ in length")
    return torch.stack(columns, dim=1) if columns else torch.zeros(0, 0, dtype=torch.float64)


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold; a file may have whole numbers beyond any."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def digits(values: Tensor) -> list[float | None]:
    """JSON numbers with seven digits; null where not finite."""
    return [rounded(value) for value in values.tolist()]


def rounded(value: float | None) -> float | None:
    """A JSON number with seven digits; null where it is None or not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")
