"""The planted features: where in a text each is active, how strongly, its direction, and its effect on the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import check_at_least

BOS, FIRST_WORD = 1, 3
"""Tokens 0 to 2 are the unknown word, BOS and EOS; words follow, of which the first mark topics."""
REACH = 4
"""A skip pattern's first token lies 2 to this many positions before its second."""
TABLES = 8
COMPANION_SHARE = 0.8
EFFECT = 3.0
"""Nats that a feature of median magnitude adds to the logits of each of its three words."""


@dataclass(frozen=True)
class PlantedConfig:
    """The size of a planted world.

    Attributes:
        seed: of everything random.
        d: width of the activations, smaller than the number of features.
        words: of the vocabulary; ``context``: tokens in a row.
        bigrams, skips, parents, companions, topics: features of each kind besides one for each frequent word.
        singles: words with a feature of their own, the most frequent ones.
        spread: of the logarithm of a feature's magnitude; ``noise``: standard deviation of each channel's noise.
        dense: rank of the part that is active everywhere.
    """

    seed: int = 0
    d: int = 64
    words: int = 120
    context: int = 32
    singles: int = 72
    bigrams: int = 16
    skips: int = 8
    parents: int = 8
    companions: int = 8
    topics: int = 4
    spread: float = 0.25
    noise: float = 0.05
    dense: int = 3

    def __post_init__(self) -> None:
        check_at_least(self, {"d": 2, "words": 40, "context": 8, "singles": 24, "dense": 0, "topics": 1})

    @property
    def vocabulary(self) -> int:
        """Tokens, special ones included."""
        return self.words + FIRST_WORD


@dataclass(frozen=True)
class Contexts:
    """What a feature can see at each position.

    Attributes:
        own: ``[batch, position]`` token ids; ``earlier``: ``[REACH, batch, position]``, those 1 to ``REACH`` positions
            before, -1 where there is none; ``marker``: ``[batch, position]``, the token after the row's BOS.
    """

    own: Tensor
    earlier: Tensor
    marker: Tensor

    @staticmethod
    def of(tokens: Tensor) -> Contexts:
        """From whole rows ``[batch, position]``."""
        marker = tokens[:, min(1, tokens.shape[1] - 1), None].expand_as(tokens).clone()
        marker[:, 0] = -1
        earlier = [F.pad(tokens, (back, 0), value=-1)[:, : tokens.shape[1]] for back in range(1, REACH + 1)]
        return Contexts(tokens, torch.stack(earlier), marker)

    @staticmethod
    def at(tokens: Tensor, rows: Tensor, places: Tensor, visible: Tensor, positions: Tensor) -> Contexts:
        """Of some ``places`` in some ``rows`` (``[wanted]`` each) alone, as ``[wanted, 1]``.

        ``tokens`` ``[batch, position]``; ``visible`` and ``positions`` as for ``Cut.prefix``.
        """
        row, seen = tokens[rows], visible[rows, places]
        apart = positions[rows, places].unsqueeze(1) - positions[rows]

        def found(where: Tensor) -> Tensor:
            return ((seen & where) * (row + 1)).amax(dim=1, keepdim=True) - 1

        earlier = torch.stack([found(apart == distance) for distance in range(1, REACH + 1)])
        return Contexts(tokens[rows, places].unsqueeze(1), earlier, found(positions[rows] == 1))

    @staticmethod
    def ends(table: Tensor, lengths: Tensor) -> Contexts:
        """The last position alone of the texts in ``table`` ``[texts, width]``, of ``lengths`` ``[texts]`` tokens each."""
        places = lengths.unsqueeze(1) - 1 - torch.arange(REACH + 1)
        seen = table.gather(1, places.clamp_min(0)).masked_fill(places < 0, -1)
        marker = torch.where(lengths > 1, table[:, min(1, table.shape[1] - 1)], -1)
        return Contexts(seen[:, :1], seen[:, 1:].T.unsqueeze(2), marker.unsqueeze(1))


@dataclass(frozen=True)
class PlantedFeatures:
    """The true dictionary.

    Attributes:
        kinds: of each feature: ``token``, ``bigram``, ``skip``, ``parent``, ``companion`` or ``topic``.
        patterns: of each: its tokens, in order of the text; of a parent, those of its children.
        directions: ``[F, d]``, unit vectors; ``scale``: ``[F]``, median magnitudes.
        effects: ``[F, V]``, what a feature of median magnitude adds to the logits; mostly 0.
        dense, bias: ``[r, d]`` and ``[d]``, the part of the activations that no feature is.
    """

    config: PlantedConfig
    kinds: tuple[str, ...]
    patterns: tuple[tuple[int, ...], ...]
    directions: Tensor
    scale: Tensor
    effects: Tensor
    dense: Tensor
    bias: Tensor
    _log_magnitude: Tensor
    _dense_values: Tensor
    _noise: Tensor
    _chance: Tensor

    @staticmethod
    def make(config: PlantedConfig) -> PlantedFeatures:
        """Features, tables and effects from the seed."""
        generator = torch.Generator().manual_seed(config.seed)
        kinds, patterns = _patterns(config, generator)
        v, f = config.vocabulary, len(kinds)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        directions = F.normalize(normal(f, config.d), dim=1)
        effects = torch.zeros(f, v)
        for number in range(f):
            liked = torch.randperm(v - FIRST_WORD, generator=generator)[:3] + FIRST_WORD
            effects[number, liked] = EFFECT
        return PlantedFeatures(
            config, kinds, patterns, directions, 2.0 * torch.exp(0.3 * normal(f)), effects,
            F.normalize(normal(max(config.dense, 1), config.d), dim=1)[: config.dense], 0.3 * normal(config.d),
            normal(v + 1, v, TABLES), 0.7 * normal(v + 1, v, config.dense), config.noise * normal(v + 1, v, config.d),
            torch.rand(v + 1, v, generator=generator),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Number of features."""
        return len(self.kinds)

    def of_kind(self, kind: str) -> list[int]:
        """Numbers of the features of a kind."""
        return [index for index, each in enumerate(self.kinds) if each == kind]

    def active(self, contexts: Contexts) -> Tensor:
        """``[batch, position, F]`` bool: where each feature's pattern is in the text."""
        own, previous = contexts.own, contexts.earlier[0]
        found = self._last[own]
        for kind, seen in (("bigram", previous), ("topic", contexts.marker)):
            some, first = self._firsts[kind]
            found[..., some] &= seen.unsqueeze(-1) == first
        some, first = self._firsts["skip"]
        found[..., some] &= (contexts.earlier[1:].unsqueeze(-1) == first).any(dim=0)
        found[..., self.of_kind("companion")] &= (self._chance[previous + 1, own] < COMPANION_SHARE).unsqueeze(-1)
        return found

    @cached_property
    def _last(self) -> Tensor:
        """``[V, F]`` bool: the words on which each feature can be active."""
        found = torch.zeros(self.config.vocabulary, self.count, dtype=torch.bool)
        for number, (kind, pattern) in enumerate(zip(self.kinds, self.patterns, strict=True)):
            if kind == "topic":
                found[FIRST_WORD:, number] = True
            else:
                found[list(pattern) if kind == "parent" else pattern[-1], number] = True
        found[:FIRST_WORD] = False
        return found

    @cached_property
    def _firsts(self) -> dict[str, tuple[list[int], Tensor]]:
        """The features of kinds that also need an earlier token, and the token that each needs."""
        some = {kind: self.of_kind(kind) for kind in ("bigram", "skip", "topic")}
        return {kind: (its, torch.tensor([self.patterns[each][0] for each in its])) for kind, its in some.items()}

    @cached_property
    def _magnitudes(self) -> Tensor:
        """``[V + 1, V, TABLES]``: magnitudes relative to the median, by the previous word and a word."""
        return torch.exp(self.config.spread * self._log_magnitude)

    def values(self, contexts: Contexts) -> Tensor:
        """``[batch, position, F]``: the true code, 0 where a feature is inactive."""
        magnitudes = self._magnitudes[contexts.earlier[0] + 1, contexts.own][..., torch.arange(self.count) % TABLES]
        return self.active(contexts) * self.scale * magnitudes

    def activations(self, contexts: Contexts) -> Tensor:
        """``[batch, position, d]``: features, the dense part and noise."""
        place = (contexts.earlier[0] + 1, contexts.own)
        return (
            self.values(contexts) @ self.directions + self.bias + self._dense_values[place] @ self.dense + self._noise[place]
        )

    @cached_property
    def norm_size(self) -> float:
        """The root mean square of the activations on words drawn by frequency alone: the gain of the final norm."""
        generator = torch.Generator().manual_seed(self.config.seed)
        drawn = torch.multinomial(word_frequencies(self.config), 4096, replacement=True, generator=generator)
        return float(self.activations(Contexts.of(drawn.reshape(256, 16))).square().mean().sqrt())

    @cached_property
    def unembedding(self) -> Tensor:
        """``[V, d]``: the effects of the features' directions, and on the bias's the logarithms of word frequencies.

        In superposition a direction also has small effects through the directions that it overlaps with.
        """
        frequency = word_frequencies(self.config)
        by_feature = self.effects.T @ (self.directions / self.scale[:, None])
        return by_feature + torch.outer(frequency.clamp_min(1e-6).log(), self.bias / self.bias.square().sum())


def word_frequencies(config: PlantedConfig) -> Tensor:
    """``[V]``: Zipf's law over the words that mark no topic; 0 for the other tokens."""
    first = FIRST_WORD + config.topics
    found = torch.zeros(config.vocabulary)
    found[first:] = 1 / (torch.arange(config.vocabulary - first) + 2.7)
    return found / found.sum()


def _patterns(config: PlantedConfig, generator: torch.Generator) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    first = FIRST_WORD + config.topics
    frequent = list(range(first, first + config.singles))

    def draw(count: int, among: int = 24) -> list[int]:
        return (torch.randperm(among, generator=generator)[:count] + first).tolist()

    found: list[tuple[str, tuple[int, ...]]] = [("token", (word,)) for word in frequent]
    found += [("bigram", (draw(1, 12)[0], word)) for word in draw(config.bigrams)]
    found += [("skip", (draw(1)[0], draw(1, 12)[0])) for _ in range(config.skips)]
    found += [("parent", tuple(sorted(draw(4, config.singles)))) for _ in range(config.parents)]
    found += [("companion", (word,)) for word in draw(config.companions)]
    found += [("topic", (FIRST_WORD + topic,)) for topic in range(config.topics)]
    kinds, patterns = zip(*found, strict=True)
    return kinds, patterns
