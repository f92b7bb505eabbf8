"""A trie of n-grams with wildcards: the explanation that Neuron2Graph gives, and its simulation on text.

A path is read backwards from the token at which the latent fires. Source: the code released with Gao et al. 2024, whose
rules are kept: an exact token has priority over a wildcard, there is no backtracking, and the first leaf ends the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

ANY, START = -1, -2
"""A wildcard, and the mark of the beginning of the text, among the keys of a node's children."""


class Path(NamedTuple):
    """An n-gram and the activation expected at its last token.

    Attributes:
        tokens: in reading order; ``ANY`` stands for any token.
        at_start: whether the text must begin with it.
        value: the activation.
    """

    tokens: tuple[int, ...]
    at_start: bool
    value: float


class Trie:
    """N-grams by their last token, the one before, and so on; node 0 is the root."""

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        self._children: list[dict[int, int]] = [{}]
        self._values: list[float | None] = [None]
        for path in paths:
            self.insert(path)

    def insert(self, path: Path, replace: bool = True) -> None:
        """Add a path. An existing path's value is replaced, or kept with ``replace=False``."""
        node = 0
        for key in (*reversed(path.tokens), *((START,) if path.at_start else ())):
            node = self._children[node].setdefault(key, len(self._children))
            if node == len(self._children):
                self._children.append({})
                self._values.append(None)
        if replace or self._values[node] is None:
            self._values[node] = path.value
        self.__dict__.pop("_compiled", None)

    def paths(self) -> Iterator[Path]:
        """Every path, such that ``Trie(paths)`` is the same trie."""
        stack: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        while stack:
            node, keys = stack.pop()
            value = self._values[node]
            if value is not None:
                at_start = keys[-1] == START
                yield Path(tuple(reversed(keys[:-1] if at_start else keys)), at_start, value)
            stack.extend((child, (*keys, key)) for key, child in reversed(self._children[node].items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trie) and sorted(self.paths()) == sorted(other.paths())

    __hash__ = None  # type: ignore[assignment]

    def predict(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Simulated activations at every position, ``[rows, context]`` float32.

        Args:
            tokens: ``[rows, context]``.
            first: where the text starts in each row (1 after a BOS that is not part of it). Predictions before it are 0.
        """
        n_rows, context = tokens.shape
        rows = torch.arange(n_rows).repeat_interleave(context)
        positions = torch.arange(context).repeat(n_rows)
        return self.predict_at(tokens, rows, positions, first).view(n_rows, context)

    def predict_at(self, tokens: Tensor, rows: Tensor, positions: Tensor, first: int = 0) -> Tensor:
        """Simulated activations at some positions, ``[places]`` float32; all are searched in the trie together.

        Args:
            tokens: ``[rows, context]``; ``rows`` and ``positions``: ``[places]`` each, the requested positions.
            first: as for ``predict``.
        """
        found = torch.zeros(rows.numel())
        places = (positions >= first).nonzero().squeeze(1)
        nodes = torch.zeros_like(places)
        depth = 0
        while places.numel():
            at = positions[places] - depth
            nodes = self._compiled.step(nodes, tokens[rows[places], at])
            searching = nodes >= 0
            places, nodes, at = places[searching], nodes[searching], at[searching]
            values = self._compiled.values[nodes]
            arrived = ~values.isnan()
            found[places[arrived]] = values[arrived]
            starting = ~arrived & (at == first)
            found[places[starting]] = self._compiled.at_start[nodes[starting]].nan_to_num(0.0)
            searching = ~arrived & (at > first)
            places, nodes = places[searching], nodes[searching]
            depth += 1
        return found

    @cached_property
    def _compiled(self) -> _Compiled:
        return _Compiled.of(self._children, self._values)

    def record(self, text: Callable[[int], str]) -> list[dict[str, Any]]:
        """The paths as JSON data, strongest first; ``text`` gives a token's text."""
        return [
            {
                "tokens": [None if token == ANY else token for token in path.tokens],
                "text": ["*" if token == ANY else text(token) for token in path.tokens],
                "at_start": path.at_start,
                "value": float(f"{path.value:.6g}"),
            }
            for path in sorted(self.paths(), key=lambda each: -each.value)
        ]

    @staticmethod
    def from_record(record: Sequence[dict[str, Any]]) -> Trie:
        """The trie that ``record`` wrote, its values to six digits."""
        return Trie([
            Path(tuple(ANY if token is None else token for token in each["tokens"]), each["at_start"], each["value"])
            for each in record
        ])  # fmt: skip


class _Compiled(NamedTuple):
    """A trie as arrays, so that many positions are searched at once."""

    keys: Tensor  # [edges] int64, node << 32 | token, sorted; targets: [edges]
    targets: Tensor
    wildcard: Tensor  # [nodes] int64, -1 where there is none
    values: Tensor  # [nodes] float32, NaN where there is no leaf
    at_start: Tensor  # [nodes] float32, the value of the start mark, NaN where there is none

    @staticmethod
    def of(children: list[dict[int, int]], values: list[float | None]) -> _Compiled:
        edges = sorted(
            (node << 32 | key, child) for node, each in enumerate(children) for key, child in each.items() if key >= 0
        )
        numbers = torch.tensor([float("nan") if value is None else value for value in values])
        marks = torch.tensor([each.get(START, -1) for each in children])
        at_start = torch.where(marks >= 0, numbers[marks.clamp_min(0)], torch.nan)
        return _Compiled(
            torch.tensor([key for key, _ in edges], dtype=torch.int64),
            torch.tensor([child for _, child in edges], dtype=torch.int64),
            torch.tensor([each.get(ANY, -1) for each in children]),
            numbers,
            at_start,
        )

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The next node of each search (``[places]``): by the exact token, else by the wildcard, else -1."""
        if not self.keys.numel():
            return self.wildcard[nodes]
        wanted = nodes << 32 | tokens
        slots = torch.searchsorted(self.keys, wanted).clamp_max(self.keys.numel() - 1)
        return torch.where(self.keys[slots] == wanted, self.targets[slots], self.wildcard[nodes])
