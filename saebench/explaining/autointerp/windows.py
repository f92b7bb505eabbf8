"""The windows of text that a latent is explained and scored with, by SAEBench's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.explaining.autointerp.protocol import AutoInterpProtocol
from saebench.explaining.llm.windows import Window


@dataclass(frozen=True)
class Windows:
    """One latent's windows.

    Attributes:
        latent: its number.
        threshold: a token is active above this.
        shown: to the explainer, strongest first.
        asked: in the question, in random order.
    """

    latent: int
    threshold: float
    shown: list[Window]
    asked: list[Window]

    def marked(self, window: Window) -> list[int]:
        """Positions of a window's active tokens."""
        return [index for index, value in enumerate(window.activations) if value > self.threshold]

    @property
    def truth(self) -> list[bool]:
        """Whether the latent is active in each window of the question."""
        return [bool(self.marked(window)) for window in self.asked]


def choose_windows(
    latent: int, places: Tensor, values: Tensor, tokens: Tensor, protocol: AutoInterpProtocol, seed: int
) -> Windows | str:
    """The windows of a latent, or why it has too few.

    Args:
        latent: its number.
        places: ``[activations]``, ``row * context + position``, ascending; ``values``: their magnitudes.
        values: see ``places``.
        tokens: ``[rows, context]``.
        protocol: how many.
        seed: of the draws.
    """
    rows, context = tokens.shape
    of, scoring, window = protocol.explainer, protocol.scoring, protocol.window
    random = np.random.default_rng([seed, latent])
    inside = (places % context >= window.before) & (places % context < context - window.after)
    centres, strengths = places[inside], values[inside]
    top = strongest_apart(centres.tolist(), strengths, of.top + scoring.top, context, window.before)
    if len(top) < of.top + scoring.top:
        return f"only {len(top)} activations lie apart from each other and from the ends of rows"
    weakest = float(strengths[top].min())
    weaker = (strengths < weakest).nonzero().flatten()
    if weaker.numel() < of.weighted + scoring.weighted:
        return f"only {weaker.numel()} activations are weaker than the {len(top)} strongest"
    weights = strengths[weaker].double().square().numpy()
    drawn = random.choice(weaker.numpy(), of.weighted + scoring.weighted, replace=False, p=weights / weights.sum())
    anywhere = random.integers(0, rows, scoring.random) * context
    anywhere += random.integers(window.before, context - window.after, scoring.random)

    def cut(centre: int) -> Window:
        return _window(centre, places, values, tokens, protocol)

    strongest = [cut(int(centres[index])) for index in random.permutation(top)]
    weighted = [cut(int(centres[index])) for index in random.permutation(drawn)]
    asked = strongest[of.top :] + weighted[of.weighted :] + [cut(int(centre)) for centre in anywhere]
    shown = sorted(strongest[: of.top] + weighted[: of.weighted], key=lambda each: -max(each.activations))
    threshold = window.mark_share * max(max(each.activations) for each in strongest)
    return Windows(latent, threshold, shown, [asked[index] for index in random.permutation(len(asked))])


def strongest_apart(centres: Sequence[int], strengths: Tensor, count: int, context: int, reach: int) -> list[int]:
    """Indices of the strongest of ``centres``, none within ``reach`` positions of a stronger one in its row."""
    chosen: list[int] = []
    taken: set[int] = set()
    for index in strengths.argsort(descending=True, stable=True).tolist():
        if centres[index] in taken:
            continue
        chosen.append(index)
        if len(chosen) == count:
            break
        row = centres[index] // context
        near = range(centres[index] - reach, centres[index] + reach + 1)
        taken.update(place for place in near if place // context == row)
    return chosen


def _window(centre: int, places: Tensor, values: Tensor, tokens: Tensor, protocol: AutoInterpProtocol) -> Window:
    row, position = divmod(centre, tokens.shape[1])
    before, after = protocol.window.before, protocol.window.after
    first, last = torch.searchsorted(places, torch.tensor([centre - before, centre + after + 1])).tolist()
    activations = torch.zeros(before + 1 + after)
    activations[places[first:last] - (centre - before)] = values[first:last]
    ids = tokens[row, position - before : position + after + 1].tolist()
    return Window(tuple(ids), tuple(activations.tolist()), row, position)
