"""A latent's trie, scores and some examples as JSON data, for the viewer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from saebench.explaining.n2g.study import Study
from saebench.explaining.n2g.trie import predict_rows

BEFORE, AFTER = 16, 8
"""Tokens shown before and after an example's strongest activation."""


def latent_records(of: Study, tokenizer: Any, shown: int) -> list[dict[str, Any]]:
    """One entry for each explained latent: its statistics, its scores, its trie's paths, and examples from unseen text.

    An example has ``tokens`` (their texts), ``activations`` and ``simulated`` of each, the corpus's ``row`` and ``start``
    (the position of the first token shown), and ``peak`` (its place among them).
    """

    @cache
    def text(token: int) -> str:
        return str(tokenizer.decode([token]))

    found = []
    simulations = predict_rows([of.tries[latent] for latent in of.chosen.latents], of.unseen.tokens, of.first)
    for index, (latent, score, simulated) in enumerate(zip(of.chosen.latents, of.scores, simulations, strict=True)):
        count = int(of.sample.counts[latent])
        trie = of.tries[latent]
        found.append(
            {
                "latent": latent,
                "density": _round(count / of.sample.tokens),
                "activations": count,
                "mean_activation": _round(float(of.sample.mass[latent]) / count),
                "largest_activation": _round(float(of.sample.largest[latent])),
                "stratum": of.chosen.strata[index],
                "weight": _round(of.chosen.weights[index]),
                "built_from": int((of.examples.latents == latent).sum()),
                **score.record(),
                "trie": trie.record(text),
                "examples": _examples(of, index, simulated, text, shown),
            }
        )
    return found


def _examples(of: Study, index: int, simulated: Tensor, text: Callable[[int], str], shown: int) -> list[dict[str, Any]]:
    """The unseen rows where the latent fires most strongly; where it fires nowhere, those where its trie predicts that it
    does."""
    counted = of.unseen.counted
    active = of.unseen.activations(index) * counted
    strength = active if bool((active > 0).any()) else simulated * counted
    peaks, places = strength.max(dim=1)
    rows = peaks.argsort(descending=True, stable=True)[:shown]
    return [
        _example(of, int(row), int(places[row]), active, simulated, text) for row in rows.tolist() if float(peaks[row]) > 0
    ]


def _example(
    of: Study, row: int, peak: int, active: Tensor, simulated: Tensor, text: Callable[[int], str]
) -> dict[str, Any]:
    start = max(0, peak - BEFORE)
    part = slice(start, peak + AFTER + 1)
    return {
        "row": int(of.unseen.rows[row]),
        "start": start,
        "peak": peak - start,
        "tokens": [text(token) for token in of.unseen.tokens[row, part].tolist()],
        "activations": [_round(value) for value in active[row, part].tolist()],
        "simulated": [_round(value) for value in simulated[row, part].tolist()],
    }


def _round(value: float) -> float:
    return float(f"{value:.5g}")
