"""The windows of text that a latent is explained and scored with.

Explanations are made from the strongest activations and a sample of all strengths; scores from held-out windows of that
sample, which overlap neither each other nor the shown ones, and from windows in which the latent is nowhere active.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saebench.explaining.examples.collecting import encode_entries
from saebench.explaining.examples.folder import ActivatingExamples, Example, LatentExamples
from saebench.explaining.llm.protocol import Protocol
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus


@dataclass(frozen=True)
class Window:
    """A stretch of text and one latent's activations on it.

    Attributes:
        tokens: token ids.
        activations: their magnitudes, 0 where the latent is not active.
        row: of the corpus; ``place`` is the position in the row that the window was cut around.
        place: see ``row``.
    """

    tokens: tuple[int, ...]
    activations: tuple[float, ...]
    row: int
    place: int

    def marked(self, share: float) -> list[int]:
        """Positions where the activation is at least ``share`` of the window's strongest."""
        least = share * max(self.activations)
        return [index for index, value in enumerate(self.activations) if value > 0 and value >= least]


@dataclass(frozen=True)
class Material:
    """The windows with which one latent is explained and scored.

    Attributes:
        latent: its number.
        maximum: its strongest activation in the corpus, in magnitude.
        shown: windows for the explainer.
        groups: held-out windows by strength, strongest group first.
        inactive: windows in which it is nowhere active.
    """

    latent: int
    maximum: float
    shown: list[Window]
    groups: list[list[Window]]
    inactive: list[Window]

    @property
    def active(self) -> list[Window]:
        """All held-out windows: the first of each group, then the second of each, and so on."""
        return [window for round_ in zip(*self.groups, strict=True) for window in round_]


class Pool:
    """Some rows of the corpus with all activations of the requested latents on them.

    Attributes:
        tokens: ``[rows, context]``; ``rows`` are their numbers in the corpus, ``counted`` the positions that count.
    """

    def __init__(self, corpus: TokenCorpus, rows: Tensor) -> None:
        self.rows, self.tokens, self.counted = rows, corpus.tokens[rows], ~corpus.excluded[rows]
        self._places: dict[int, Tensor] = {}

    @staticmethod
    def sample(corpus: TokenCorpus, tokens: int, seed: int) -> Pool:
        """A random sample of rows with about ``tokens`` tokens in total."""
        n_rows = min(max(tokens // corpus.context, 1), corpus.tokens.shape[0])
        drawn = torch.randperm(corpus.tokens.shape[0], generator=torch.Generator().manual_seed(seed))[:n_rows]
        return Pool(corpus, drawn.sort().values)

    @torch.no_grad()
    def encode(self, sae: Autoencoder, cut: Cut, latents: Sequence[int], rows_per_batch: int, progress: Progress) -> None:
        """Find where the latents are active. Only their activations are kept."""
        wanted = torch.tensor(sorted(latents))
        found: list[tuple[Tensor, Tensor]] = []
        context = self.tokens.shape[1]
        with progress.task("Finding windows without activations", total=self.tokens.numel(), unit="tokens") as advance:
            for first in range(0, self.tokens.shape[0], rows_per_batch):
                tokens, counted = (part[first : first + rows_per_batch] for part in (self.tokens, self.counted))
                inputs = cut.prefix(tokens).inputs
                rows, positions = counted.to(inputs.device).nonzero(as_tuple=True)
                entries = encode_entries(sae, inputs[rows, positions].float(), (rows + first) * context + positions)
                active, places = entries[0].cpu(), entries[1].cpu()
                kept = torch.isin(active, wanted)
                found.append((active[kept], places[kept]))
                advance(tokens.numel())
        active, places = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = active.argsort(stable=True)
        ends = torch.searchsorted(active[order], wanted, right=True).tolist()
        starts = torch.searchsorted(active[order], wanted).tolist()
        for latent, start, end in zip(wanted.tolist(), starts, ends, strict=True):
            self._places[latent] = places[order[start:end]]

    def inactive(self, latent: int, count: int, before: int, after: int, seed: int) -> list[Window]:
        """Up to ``count`` windows around random places in which the latent is nowhere active; none overlaps another."""
        rows, context = self.tokens.shape
        silent = torch.ones(rows * context, dtype=torch.bool)
        silent[self._places[latent]] = False
        active_before = torch.zeros(rows, context + 1, dtype=torch.int64)
        active_before[:, 1:] = (~silent.view(rows, context)).cumsum(dim=1)
        position = torch.arange(context)
        first, last = (position - before).clamp_min(0), (position + after).clamp_max(context - 1)
        usable = ((active_before[:, last + 1] - active_before[:, first]) == 0) & self.counted
        candidates = usable.flatten().nonzero().squeeze(1).tolist()
        seeded_random(seed, latent, "inactive").shuffle(candidates)
        windows: list[Window] = []
        taken = _UsedWindows(before + 1 + after)
        for candidate in candidates:
            row, place = divmod(candidate, context)
            if len(windows) == count:
                break
            if taken.take(row, place):
                tokens = self.tokens[row, int(first[place]) : int(last[place]) + 1].tolist()
                windows.append(Window(tuple(tokens), (0.0,) * len(tokens), int(self.rows[row]), place))
        return windows


class _UsedWindows:
    """The windows of text in use."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._places: dict[int, list[int]] = {}

    def take(self, row: int, place: int) -> bool:
        """Reserve the window around a place, unless it overlaps one in use."""
        there = self._places.setdefault(row, [])
        if any(abs(place - other) < self._size for other in there):
            return False
        there.append(place)
        return True


def shortfall(examples: ActivatingExamples, protocol: Protocol) -> str | None:
    """Why no latent of these examples can be explained by the protocol, if so."""
    kept, window = examples.manifest["settings"], protocol.window
    if kept["before"] < window.before or kept["after"] < window.after:
        return (
            f"keep {kept['before']} tokens before an activation and {kept['after']} after it, and the protocol shows "
            f"{window.before} and {window.after}: collect them again with wider windows in explain/examples.toml"
        )
    if examples.context < window.size:
        return f"are of rows of {examples.context} tokens, shorter than the window of {window.size}: use a longer --context"
    needed = sample_size(protocol)
    if kept["random"] < needed or kept["top"] < protocol.explainer.top:
        return (
            f"keep {kept['top']} strongest and {kept['random']} random activations of a latent, and the protocol needs "
            f"{protocol.explainer.top} and {needed}: collect them again with --top and --random"
        )
    return None


def sample_size(protocol: Protocol) -> int:
    """Number of windows needed from a latent's random sample."""
    of, scoring = protocol.explainer, protocol.scoring
    return of.quantiles * of.each + scoring.quantiles * scoring.each


def split(latent: LatentExamples, protocol: Protocol, seed: int) -> Material | str:
    """The shown and held-out windows (without inactive ones), or why there are too few."""
    if not latent.count:
        return "never active"
    shown = latent.top[: protocol.explainer.top]  # at most one a row
    taken = _UsedWindows(protocol.window.size)
    for example in shown:
        taken.take(example.row, example.row_position)
    sample = [example for example in latent.random if taken.take(example.row, example.row_position)]
    of, scoring, needed = protocol.explainer, protocol.scoring, sample_size(protocol)
    if len(shown) < of.top or len(sample) < needed:
        return (
            f"too few activations: {len(shown)} strong and {len(sample)} random windows that do not overlap, "
            f"of {of.top} and {needed} needed"
        )
    for_explainer = [example for group in _by_strength(latent, sample, of.quantiles, of.each) for example in group]
    chosen = {id(example) for example in for_explainer}
    held_out = [example for example in sample if id(example) not in chosen]
    groups = _by_strength(latent, held_out, scoring.quantiles, scoring.each)
    everything = [_cut(example, protocol) for example in [*shown, *for_explainer]]
    seeded_random(seed, latent.latent, "shown").shuffle(everything)
    return Material(
        latent=latent.latent,
        maximum=abs(latent.maximum or 0.0),
        shown=everything,
        groups=[[_cut(example, protocol) for example in group] for group in groups],
        inactive=[],
    )


def with_inactive(material: Material, pool: Pool, protocol: Protocol, seed: int) -> Material | str:
    """The same, with windows in which the latent is not active, or why there are too few."""
    needed, window = protocol.scoring.inactive, protocol.window
    found = pool.inactive(material.latent, needed, window.before, window.after, seed)
    if len(found) < needed:
        return f"active nearly everywhere: {len(found)} windows without an activation, of {needed} needed"
    return replace(material, inactive=found)


def _by_strength(latent: LatentExamples, sample: list[Example], groups: int, each: int) -> list[list[Example]]:
    return replace(latent, random=sample).quantiles(groups, each)


def _cut(example: Example, protocol: Protocol) -> Window:
    start = max(example.position - protocol.window.before, 0)
    stop = example.position + protocol.window.after + 1
    return Window(
        tokens=tuple(example.tokens[start:stop].tolist()),
        activations=tuple(example.activations[start:stop].abs().tolist()),
        row=example.row,
        place=example.row_position,
    )


def seeded_random(seed: int, latent: int, purpose: str) -> random.Random:
    """Random numbers that depend on seed, latent and purpose alone."""
    return random.Random(f"{seed}/{latent}/{purpose}")
