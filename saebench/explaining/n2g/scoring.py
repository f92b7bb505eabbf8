"""Scores of a trie as a prediction of where its latent fires: precision on unseen text, recall on held-out activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.explaining.examples.sampling import HookInputs, encode_rows
from saebench.explaining.n2g.trie import Trie, predict_places, predict_rows
from saebench.results.statistics import Estimate, ratio_estimate
from saebench.sae import Autoencoder

Z95 = 1.959964


class UnseenText:
    """Held-out rows, with the true activations of some latents.

    Attributes:
        rows: ``[rows]``, indices in the corpus; ``tokens`` and ``counted``: ``[rows, context]``.
        latents: those whose activations are known, in the order given.
    """

    def __init__(self, source: HookInputs, sae: Autoencoder, rows: Tensor, latents: list[int]) -> None:
        corpus = source.corpus
        self.rows, self.latents = rows, latents
        self.tokens, self.counted = corpus.tokens[rows], ~corpus.excluded[rows]
        place = torch.full((sae.n_latents,), -1)
        place[latents] = torch.arange(len(latents))
        found: list[Tensor] = []
        values: list[Tensor] = []
        for batch in encode_rows(source, sae, rows):
            which = place[batch.latents.indices.cpu()]
            tokens, slots = ((which >= 0) & (batch.latents.values.cpu() > 0)).nonzero(as_tuple=True)
            at = torch.searchsorted(rows, batch.rows[tokens]) * corpus.context + batch.positions[tokens]
            found.append(torch.stack([which[tokens, slots], at]))
            values.append(batch.latents.values.cpu()[tokens, slots].float())
        entries, every = torch.cat(found, dim=1), torch.cat(values)
        order = entries[0].argsort(stable=True)
        self._places, self._values = entries[1, order], every[order]
        counts = torch.bincount(entries[0], minlength=len(latents))
        self._offsets = [0, *counts.cumsum(0).tolist()]

    def activations(self, index: int) -> Tensor:
        """``[rows, context]`` float32: of latent ``latents[index]``, 0 where it does not fire."""
        part = slice(self._offsets[index], self._offsets[index + 1])
        dense = torch.zeros(self.tokens.numel())
        dense[self._places[part]] = self._values[part]
        return dense.view(self.tokens.shape)


@dataclass(frozen=True)
class LatentScore:
    """The scores of one trie. Undefined ones are None.

    Attributes:
        precision: share of the positions predicted positive at which the latent fires, on unseen text; its standard error
            counts rows, not tokens.
        recall: share of held-out activations that are predicted positive.
        recall_unseen: share of all the latent's activations in the unseen text that are predicted positive.
        f1: harmonic mean of ``precision`` and ``recall_unseen``.
        f1_balanced: the same if the latent were active at half of the positions: precision falls with rarity, this does not.
        auc: probability that the simulated activation is larger where the latent fires than where it does not, ties half.
        predicted, positives, both: numbers of unseen positions; ``held_out``: of activations.
    """

    precision: Estimate
    precision_interval: tuple[float, float] | None
    recall: Estimate
    recall_interval: tuple[float, float] | None
    recall_unseen: float | None
    f1: float | None
    f1_balanced: float | None
    auc: float | None
    predicted: int
    positives: int
    both: int
    held_out: int

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "precision": _digits(self.precision.value),
            "precision_interval": _digits(self.precision_interval),
            "recall": _digits(self.recall.value),
            "recall_interval": _digits(self.recall_interval),
            "recall_unseen": _digits(self.recall_unseen),
            "f1": _digits(self.f1),
            "f1_balanced": _digits(self.f1_balanced),
            "auc": _digits(self.auc),
            "positions_predicted": self.predicted,
            "positions_active": self.positives,
            "positions_both": self.both,
            "held_out": self.held_out,
        }


def _digits(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_digits(each) for each in value]
    return None if value is None else float(f"{value:.5g}")


def score_latent(active: Tensor, simulated: Tensor, counted: Tensor, held_out: Tensor, level: float = 0.0) -> LatentScore:
    """Compare simulated with true activations.

    Args:
        active: ``[rows, context]``, the latent's activations on unseen text; ``simulated``: its trie's prediction.
        counted: ``[rows, context]`` bool, the positions that count.
        held_out: ``[activations]``, the trie's prediction at held-out activations.
        level: above which a latent counts as firing, and a simulation as positive.
    """
    truth, positive = (active > level) & counted, (simulated > level) & counted
    hits, predicted = (truth & positive).sum(dim=1).double(), positive.sum(dim=1).double()
    precision = ratio_estimate(hits, predicted)
    both, n_predicted, n_true = int(hits.sum()), int(predicted.sum()), int(truth.sum())
    n_false = int(counted.sum()) - n_true
    right = (held_out > level).double()
    recall = ratio_estimate(right, torch.ones_like(right))
    return LatentScore(
        precision=precision,
        precision_interval=share_interval(precision, n_predicted, int((predicted > 0).sum())),
        recall=recall,
        recall_interval=share_interval(recall, right.numel(), right.numel()),
        recall_unseen=both / n_true if n_true else None,
        f1=2 * both / (n_predicted + n_true) if n_predicted + n_true else None,
        f1_balanced=_balanced_f1(both / n_true, (n_predicted - both) / n_false) if n_true and n_false else None,
        auc=area_under_curve(simulated[counted], truth[counted]),
        predicted=n_predicted,
        positives=n_true,
        both=both,
        held_out=right.numel(),
    )


def _balanced_f1(hit_rate: float, false_rate: float) -> float:
    """Harmonic mean of ``h / (h + f)``, the precision where half of the positions are active, and of the recall ``h``."""
    return 2 * hit_rate / (1 + hit_rate + false_rate)


def score_tries(
    tries: dict[int, Trie], unseen: UnseenText, held_out: dict[int, tuple[Tensor, Tensor]], corpus_tokens: Tensor,
    first: int, levels: dict[int, float],
) -> list[LatentScore]:  # fmt: skip
    """A score for each of the unseen text's latents.

    Args:
        tries: by latent.
        unseen: the text.
        held_out: ``(rows, positions)`` of each latent's held-out activations in the corpus.
        corpus_tokens: ``[rows, context]``.
        first: the position at which text starts in a row.
        levels: above which each latent counts as firing.
    """
    some = [tries[latent] for latent in unseen.latents]
    places = [held_out[latent] for latent in unseen.latents]
    sizes = [rows.numel() for rows, _ in places]
    owners = torch.arange(len(some)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    rows, positions = (torch.cat(each) for each in zip(*places, strict=True)) if places else (owners, owners)
    at_held_out = predict_places(some, owners, corpus_tokens, rows, positions, first) if some else torch.zeros(0)
    return [
        score_latent(unseen.activations(index), simulated, unseen.counted, at, levels[latent])
        for index, (latent, simulated, at) in enumerate(
            zip(unseen.latents, predict_rows(some, unseen.tokens, first), at_held_out.split(sizes), strict=True)
        )
    ]


def area_under_curve(scores: Tensor, truth: Tensor) -> float | None:
    """Area under the ROC curve of ``scores`` for ``truth`` (``[positions]`` each); None where only one class occurs."""
    levels, inverse = torch.unique(scores, return_inverse=True)
    positive = torch.bincount(inverse[truth], minlength=levels.numel()).double()
    negative = torch.bincount(inverse[~truth], minlength=levels.numel()).double()
    pairs = float(positive.sum() * negative.sum())
    if pairs == 0:
        return None
    return float((positive * (negative.cumsum(0) - negative / 2)).sum()) / pairs


def share_interval(share: Estimate, n: int, groups: int) -> tuple[float, float] | None:
    """95 % interval of a share out of ``n`` positions in ``groups`` rows.

    Wilson's score interval with the effective sample size ``p (1 - p) / se^2`` in place of ``n`` (Korn and Graubard 1998
    use it so with an exact interval), at most ``n``; where the standard error is 0 or unknown, the number of rows.
    """
    if share.value is None:
        return None
    p, error = share.value, share.standard_error
    size = min(float(n), p * (1 - p) / error**2) if error and 0 < p < 1 else float(groups)
    centre, spread = p + Z95**2 / (2 * size), Z95 * math.sqrt(p * (1 - p) / size + (Z95 / (2 * size)) ** 2)
    scale = 1 + Z95**2 / size
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
