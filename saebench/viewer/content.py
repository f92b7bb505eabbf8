"""The pages' content as JSON data: the list of latents, a latent's statistics and examples. It needs no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saebench.errors import SaebenchError
from saebench.explaining.examples.folder import ActivatingExamples, Example
from saebench.provenance import portable_name
from saebench.sae import CheckpointInfo
from saebench.viewer.decomposed import Decomposition
from saebench.viewer.explained import explained_latents

Show = Literal["all", "active", "dense", "dead", "explained"]
Sort = Literal["number", "density", "maximum"]
PAGE = 50
DENSE = 0.1
"""Latents that fire on more than this share of the tokens are called dense (Gao et al. 2024, section 5)."""
DIGITS = 5


@dataclass(frozen=True)
class Extent:
    """How many examples of a latent are shown (the strongest, then quantile groups), and how much text."""

    top: int = 12
    groups: int = 4
    each: int = 4
    before: int = 63
    after: int = 32


@dataclass(frozen=True)
class Content:
    """The content about an autoencoder that needs no weights.

    Attributes:
        info: the checkpoint's metadata.
        examples: from ``saebench examples``, or None.
        explained: entries of a result file, by latent and evaluator.
        extent: number of examples and length of text for each latent.
        decomposition: from ``saebench meta``, or None.
    """

    info: CheckpointInfo
    examples: ActivatingExamples | None = None
    explained: dict[int, dict[str, Any]] = field(default_factory=dict)
    extent: Extent = field(default_factory=Extent)
    decomposition: Decomposition | None = None

    @staticmethod
    def open(
        info: CheckpointInfo,
        examples: str | Path | None,
        result: str | Path | None,
        extent: Extent,
        meta: str | Path | None = None,
    ) -> Content:
        """Open the folder of examples, the result file and the folder of a meta-autoencoder, where given.

        Raises:
            SaebenchError: one cannot be used, or the examples are of another dictionary.
        """
        found = None if examples is None else ActivatingExamples.open(examples)
        if found is not None and found.n_latents != info.n_latents:
            raise SaebenchError(
                f"{examples} holds examples of {found.n_latents:,} latents, but the checkpoint has {info.n_latents:,}: "
                "give the folder that was written for it."
            )
        explained = {} if result is None else explained_latents(result, info.n_latents)
        content = Content(info, found, explained, extent, None if meta is None else Decomposition.open(meta, info))
        if found is not None:
            _ = content._columns, found.vocabulary  # read now: damage is found before a page is requested
        return content

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        return self.info.n_latents

    def overview(self) -> dict[str, Any]:
        """The head of every page, and the histogram of densities."""
        found: dict[str, Any] = {
            "name": portable_name(self.info.origin),
            "facts": self._facts(),
            "n_latents": self.n_latents,
            "has_examples": self.examples is not None,
            "explained": len(self.explained),
            "dense_from": DENSE,
            "page": PAGE,
        }
        if self.examples is not None:
            density = self._column("density")
            found |= {"dead": int((density == 0).sum()), "dense": int((density > DENSE).sum())}
            found["densities"] = _log_histogram(density[density > 0])
        return found

    def _facts(self) -> list[list[str]]:
        facts = [["Architecture", self.info.architecture], ["Latents", f"{self.n_latents:,}"]]
        if self.examples is not None:
            of = self.examples.manifest
            facts += [["Model", of["model"]["name"]], ["Hook", of["sae"]["hook_in"]]]
            facts += [["Text", f"{of['corpus']['name']}, {of['corpus']['tokens_counted']:,} tokens"]]
        elif self.info.hook_in:
            facts += [["Model", self.info.model or "not named"], ["Hook", self.info.hook_in]]
        return facts

    def listing(self, show: str = "all", sort: str = "number", page: int = 0) -> dict[str, Any]:
        """A page of the list of latents.

        Raises:
            SaebenchError: there is no such choice.
        """
        if show not in get_args(Show) or sort not in get_args(Sort):
            raise SaebenchError("There is no such list of latents.")
        numbers = self._chosen(show, sort)
        pages = max(1, -(-len(numbers) // PAGE))
        page = min(max(page, 0), pages - 1)
        rows = [self._row(int(number)) for number in numbers[page * PAGE : (page + 1) * PAGE]]
        return {"rows": rows, "page": page, "pages": pages, "total": len(numbers)}

    def _chosen(self, show: str, sort: str) -> NDArray[np.int64]:
        numbers = np.arange(self.n_latents)
        if show == "explained":
            numbers = np.array(sorted(self.explained), dtype=np.int64)
        elif self.examples is not None:
            density = self._column("density")
            keep = {"all": density >= 0, "active": density > 0, "dense": density > DENSE, "dead": density == 0}[show]
            numbers = numbers[keep]
        elif show != "all":
            numbers = numbers[:0]
        if self.examples is None or sort == "number":
            return numbers
        values = np.nan_to_num(np.abs(self._column(sort)[numbers]), nan=-1.0)
        order: NDArray[np.int64] = np.argsort(-values, kind="stable")
        return numbers[order]

    def _row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = {"latent": number}
        if self.examples is not None:
            row |= {name: _rounded(float(self._column(name)[number])) for name in ("density", "mean", "maximum")}
            place = int(self._column("place")[number])
            if place >= 0:
                ids, position = self.examples.snippet(place, 8, 3)
                row |= {"text": self._texts(ids), "position": position}
        explanation = _explanation(self.explained.get(number, {}))
        return (
            row
            | ({"explained": True} if number in self.explained else {})
            | ({"explanation": explanation} if explanation else {})
        )

    def latent(self, number: int) -> dict[str, Any]:
        """A latent's page, without the parts that need weights.

        Raises:
            SaebenchError: there is no such latent, or the examples are damaged.
        """
        if not 0 <= number < self.n_latents:
            raise SaebenchError(f"There is no latent {number}: they are numbered 0 to {self.n_latents - 1:,}.")
        page: dict[str, Any] = {"latent": number, "explained": self.explained.get(number, {})}
        if self.decomposition is not None:
            page["meta_latents"] = self.decomposition.of(number)
        if self.examples is None:
            return page
        of, extent = self.examples.latent(number), self.extent
        groups = [("Strongest", of.top[: extent.top])]
        for index, group in enumerate(of.quantiles(extent.groups, extent.each)):
            low, high = 100 * (extent.groups - index - 1) // extent.groups, 100 * (extent.groups - index) // extent.groups
            groups.append((f"Quantiles {low}–{high} %", group))
        shown = [(name, [self._example(each) for each in group]) for name, group in groups if group]
        ids = sorted({token for _, examples in shown for each in examples for token in each["tokens"]})
        return page | {
            "count": of.count,
            "density": _rounded(of.density),
            "mean": _rounded(of.mean),
            "maximum": _rounded(of.maximum),
            "histogram": self._histogram(of.histogram.tolist()),
            "groups": [{"name": name, "examples": examples} for name, examples in shown],
            "words": dict(zip(ids, self._texts(ids), strict=True)),
        }

    def _example(self, example: Example) -> dict[str, Any]:
        first = max(example.position - self.extent.before, 0)
        part = slice(first, example.position + self.extent.after + 1)
        activations = example.activations[part]
        active = activations.nonzero().flatten().tolist()
        return {
            "tokens": example.tokens[part].tolist(),
            "active": [[place, _rounded(float(activations[place]))] for place in active],
            "position": example.position - first,
            "row": example.row,
            "row_position": example.row_position,
        }

    def _histogram(self, counts: list[int]) -> dict[str, Any] | None:
        """Without the empty bins at both ends."""
        assert self.examples is not None
        filled = [place for place, count in enumerate(counts) if count]
        if not filled:
            return None
        low, high = filled[0], filled[-1] + 1
        edges = [_rounded(edge) for edge in self.examples.histogram_edges[low : high + 1]]
        return {"edges": edges, "counts": counts[low:high]}

    def jump(self, kind: str, chance: float, shown: int | None = None) -> int | None:
        """A latent of a type (``random``, ``dense``, ``dead``), chosen by a number in [0, 1); None where there is none.

        Another one than ``shown``, unless that is the only one of its type.

        Raises:
            SaebenchError: there is no such type.
        """
        show = {"random": "active" if self.examples is not None else "all", "dense": "dense", "dead": "dead"}.get(kind)
        if show is None:
            raise SaebenchError("There is no such type of latent.")
        every = self._chosen(show, "number")
        others = every if shown is None else every[every != shown]
        numbers = others if len(others) else every
        return int(numbers[int(chance * len(numbers))]) if len(numbers) else None

    def densities(self, numbers: Sequence[int]) -> list[float | None]:
        """Density of each latent; None without examples."""
        if self.examples is None:
            return [None] * len(numbers)
        return [_rounded(float(self._column("density")[number])) for number in numbers]

    def words(self) -> list[str] | None:
        """The vocabulary, where there are examples."""
        return None if self.examples is None else self.examples.vocabulary

    def _texts(self, ids: Sequence[int]) -> list[str]:
        assert self.examples is not None
        known = self.examples.vocabulary
        wrong = [token for token in ids if not 0 <= token < len(known)]
        if wrong:
            raise SaebenchError(f"The folder of examples names token {wrong[0]:,}, but its vocabulary has {len(known):,}.")
        return [known[token] for token in ids]

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        assert self.examples is not None
        return {str(name): column.to_numpy() for name, column in self.examples.table.items()}


def _log_histogram(values: NDArray[np.float64], per_decade: int = 4) -> dict[str, Any] | None:
    """Counts in logarithmic bins."""
    if not len(values):
        return None
    low = math.floor(math.log10(values.min()) * per_decade)
    high = max(math.ceil(math.log10(values.max()) * per_decade), low + 1)
    edges = [10.0 ** (step / per_decade) for step in range(low, high + 1)]
    counts = np.histogram(values, bins=np.array([0.0, *edges[1:-1], np.inf]))[0]
    return {"edges": [_rounded(edge) for edge in edges], "counts": counts.tolist()}


def _explanation(by_evaluator: dict[str, Any]) -> str | None:
    for record in by_evaluator.values():
        if isinstance(record.get("explanation"), str):
            return str(record["explanation"])
    return None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
