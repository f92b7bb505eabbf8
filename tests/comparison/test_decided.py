"""Differences of two checkpoints that are evaluated until they are decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.comparison.compare import compare
from saebench.comparison.decided import Margin, PairedLooks, until_decided
from saebench.errors import SaebenchError
from saebench.evaluators.downstream import Downstream
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.conftest import HOOK
from tests.evaluation.test_precision import Sums

KL = "downstream.kl_divergence"


def looked(difference: float, margin: Margin | None, seed: int, rows: int = 500) -> PairedLooks:
    """Looks at two autoencoders whose rows are correlated and differ by ``difference`` on average (of 1)."""
    generator = torch.Generator().manual_seed(seed)
    common, noise = torch.randn(2, rows, generator=generator, dtype=torch.float64)
    looking = PairedLooks([KL], margin, rows, 128)
    for end in looking.at:
        plain = {name: torch.ones(end, dtype=torch.float64) for name in Downstream.row_columns}
        first = {**plain, "kl_divergence": 1 + 0.5 * common[:end]}
        second = {**plain, "kl_divergence": 1 + difference + 0.5 * common[:end] + 0.1 * noise[:end]}
        if looking([{"downstream": Sums(first)}, {"downstream": Sums(second)}], end):
            break
    return looking


def test_a_large_difference_is_decided_at_once_and_a_small_one_later() -> None:
    large, small = looked(-0.2, None, 0), looked(0.03, None, 0)
    assert (large.decisions[KL].outcome, large.rows) == ("lower", 64)
    assert small.decisions[KL].outcome == "higher" and 64 < small.rows < 500
    low, high = small.decisions[KL].interval
    assert 0 < low < small.decisions[KL].second - small.decisions[KL].first < high
    # paired: the error is that of 0.1 * noise alone, not of the rows
    assert (high - low) / 2 == pytest.approx(3 * 0.1 / small.rows**0.5, rel=0.25)


def test_equal_autoencoders_are_rarely_decided_and_are_found_to_be_within_a_margin() -> None:
    outcomes = [looked(0.0, None, seed).decisions[KL].outcome for seed in range(300)]
    wrong = sum(outcome != "undecided" for outcome in outcomes)
    assert 1 <= wrong <= 15  # at most 5 % by design; a single look at 95 % each time would be wrong far more often
    within = [looked(0.0, Margin(0.05), seed).decisions[KL] for seed in range(20)]
    assert {each.outcome for each in within} == {"within the margin"}
    assert all(each.interval[0] > -0.05 and each.interval[1] < 0.05 for each in within)
    assert looked(0.0, Margin(0.05, relative=True), 1).decisions[KL].outcome == "within the margin"


def test_margins_are_read_from_text() -> None:
    assert Margin.parse("2%") == Margin(0.02, relative=True) and Margin.parse("0.01") == Margin(0.01)
    for text in ("0", "-1", "much", "0%", "inf", "200%"):
        with pytest.raises(SaebenchError, match="The margin is"):
            Margin.parse(text)


@pytest.fixture(scope="module")
def corpus(tiny_model: LanguageModel) -> TokenCorpus:
    rows = torch.randint(3, 200, (300, 12), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    return replace(make_corpus(rows, tiny_model.tokenizer, name="random tokens", bos="row"), tokens_requested=3600)


def test_two_autoencoders_are_decided_as_their_whole_results_are(
    tiny_model: LanguageModel, corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    saes = [make_sae(activation=TopK(4)), make_sae(activation=TopK(16))]
    common: dict[str, Any] = {"model": tiny_model, "hook": HOOK, "corpus": corpus, "progress": False}
    decisions, results = until_decided(*saes, metrics=["cosine_similarity", "explained_variance"], **common)
    assert [each.outcome for each in decisions] == ["higher", "lower"]  # an untrained dictionary adds more than it explains
    assert {result.corpus.rows for result in results} == {64} and decisions[0].tokens == 768
    verdicts = compare(results).verdicts(1)
    for each in decisions:
        verdict = verdicts[each.metric]
        assert verdict.outcome == {"higher": "better", "lower": "worse"}[each.outcome] and verdict.interval is not None
        assert each.second - each.first == pytest.approx(verdict.difference, rel=1e-5)
        assert each.interval[0] < verdict.interval[0] and each.interval[1] > verdict.interval[1]  # of a look, not of 95 %
    same, results = until_decided(saes[0], saes[0], metrics=[KL], margin="1%", **common)
    assert (same[0].outcome, results[0].corpus.rows) == ("within the margin", 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metrics": ["dead_latents"]}, "no metric with a standard error over rows"),
        ({"metrics": ["mse"]}, "scale of reconstruction.mse is known only at the end"),
        ({"margin": "-1"}, "The margin is '-1'"),
        ({}, "is a result, which has all its rows already"),
    ],
)
def test_refusals_come_first(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    result = tmp_path / "a.json"
    result.write_text("{}")
    with pytest.raises(SaebenchError, match=words):
        until_decided(str(tmp_path / "none"), str(result), **arguments)
