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
PLACES_TOGETHER = 2**19
"""Places that are searched together: bounds memory to some tens of MiB."""


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
        return next(predict_rows([self], tokens, first))

    def predict_at(self, tokens: Tensor, rows: Tensor, positions: Tensor, first: int = 0) -> Tensor:
        """Simulated activations at some positions, ``[places]`` float32.

        Args:
            tokens: ``[rows, context]``; ``rows`` and ``positions``: ``[places]`` each, the requested positions.
            first: as for ``predict``.
        """
        return predict_places([self], torch.zeros_like(rows), tokens, rows, positions, first)

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


def predict_places(
    tries: Sequence[Trie], owners: Tensor, tokens: Tensor, rows: Tensor, positions: Tensor, first: int = 0
) -> Tensor:
    """Simulated activations of several tries, ``[places]`` float32; all places are searched together.

    Args:
        tries: the tries; ``owners``: ``[places]``, the number of the trie that is asked at each place.
        tokens: ``[rows, context]``; ``rows`` and ``positions``: ``[places]`` each.
        first: as for ``Trie.predict``.
    """
    compiled, roots = _Compiled.together([trie._compiled for trie in tries])
    found = torch.zeros(rows.numel())
    places = (positions >= first).nonzero().squeeze(1)
    nodes = roots[owners[places]]
    depth = 0
    while places.numel():
        at = positions[places] - depth
        nodes = compiled.step(nodes, tokens[rows[places], at])
        searching = nodes >= 0
        places, nodes, at = places[searching], nodes[searching], at[searching]
        values = compiled.values[nodes]
        arrived = ~values.isnan()
        found[places[arrived]] = values[arrived]
        starting = ~arrived & (at == first)
        found[places[starting]] = compiled.at_start[nodes[starting]].nan_to_num(0.0)
        searching = ~arrived & (at > first)
        places, nodes = places[searching], nodes[searching]
        depth += 1
    return found


def predict_rows(tries: Sequence[Trie], tokens: Tensor, first: int = 0) -> Iterator[Tensor]:
    """Each trie's ``predict`` on the same rows, in order; several tries are searched together."""
    n_rows, context = tokens.shape
    rows = torch.arange(n_rows).repeat_interleave(context)
    positions = torch.arange(context).repeat(n_rows)
    size = max(1, PLACES_TOGETHER // max(1, rows.numel()))
    for start in range(0, len(tries), size):
        some = tries[start : start + size]
        owners = torch.arange(len(some)).repeat_interleave(rows.numel())
        found = predict_places(some, owners, tokens, rows.repeat(len(some)), positions.repeat(len(some)), first)
        yield from found.view(len(some), n_rows, context)


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

    @staticmethod
    def together(tries: Sequence[_Compiled]) -> tuple[_Compiled, Tensor]:
        """Several tries as one forest, and the root of each, ``[tries]``."""
        if len(tries) == 1:
            return tries[0], torch.zeros(1, dtype=torch.int64)
        sizes = torch.tensor([each.values.numel() for each in tries])
        roots = sizes.cumsum(0) - sizes
        starts = roots.tolist()
        moved = [
            each._replace(
                keys=each.keys + (start << 32), targets=each.targets + start,
                wildcard=torch.where(each.wildcard < 0, -1, each.wildcard + start),
            )
            for each, start in zip(tries, starts, strict=True)
        ]  # fmt: skip
        return _Compiled(*(torch.cat(each) for each in zip(*moved, strict=True))), roots

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The next node of each search (``[places]``): by the exact token, else by the wildcard, else -1."""
        if not self.keys.numel():
            return self.wildcard[nodes]
        wanted = nodes << 32 | tokens
        slots = torch.searchsorted(self.keys, wanted).clamp_max(self.keys.numel() - 1)
        return torch.where(self.keys[slots] == wanted, self.targets[slots], self.wildcard[nodes])
