"""Precision on demand: a simulation of the stopping rule, and results equal to those of as many tokens asked for at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saebench
from saebench.errors import SaebenchError
from saebench.evaluation.precision import PrecisionLooks, looks, parse_precision, relative_error, targets_of
from saebench.evaluators.base import installed_evaluators
from saebench.evaluators.downstream import Downstream
from saebench.lm import LanguageModel
from saebench.report import render_text
from saebench.results import Reached
from saebench.results.statistics import ratio_estimate
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.conftest import HOOK

CORE = {name: installed_evaluators()[name] for name in ("reconstruction", "downstream", "dictionary")}
KL = "downstream.kl_divergence"


class Sums(Downstream):
    """Stands for an evaluator after some rows, whose sums are given."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = columns

    def row_sums(self) -> Mapping[str, Tensor]:
        return self.columns


def stopped(numerator: Tensor, denominator: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """``(estimates, rows)`` at the stop of each repetition: sums are ``[repetitions, rows]``. Independent of ``Looks``."""
    a, b = numerator.cumsum(1), denominator.cumsum(1)
    aa, ab, bb = (
        (x * y).cumsum(1) for x, y in ((numerator, numerator), (numerator, denominator), (denominator, denominator))
    )
    ends = looks(a.shape[1])
    found, rows = torch.zeros(a.shape[0], dtype=a.dtype), torch.zeros(a.shape[0], dtype=torch.int64)
    for end in ends:
        at, ratio = end - 1, a[:, end - 1] / b[:, end - 1]
        squares = aa[:, at] - 2 * ratio * ab[:, at] + ratio.square() * bb[:, at]
        error = (end / (end - 1) * squares).sqrt() / b[:, at]
        stop = (rows == 0) & ((error <= target * ratio) | (end == ends[-1]))
        found, rows = torch.where(stop, ratio, found), torch.where(stop, end, rows)
    return found, rows


def skewed_rows(repetitions: int, rows: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Log-normal sums over rows with between 100 and 127 counted tokens; the true ratio is ``exp(spread^2 / 2)``."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(100, 128, (repetitions, rows), generator=generator).double()
    values = (spread * torch.randn(repetitions, rows, generator=generator, dtype=torch.float64)).exp()
    return values * counts, counts


@pytest.mark.parametrize(
    ("spread", "target", "rows", "fewest"), [(0.3, 0.02, 1024, 216), (0.5, 0.05, 512, 96), (0.8, 0.05, 1024, 144)]
)
def test_stopping_shifts_estimates_by_less_than_a_tenth_of_their_error(
    spread: float, target: float, rows: int, fewest: int
) -> None:
    found, stops = stopped(*skewed_rows(8000, rows, spread, seed=0), target)
    true = math.exp(spread**2 / 2)
    assert abs(float(found.mean()) - true) < 0.1 * float(found.std())
    assert float(((found / true - 1).square().mean()).sqrt()) < target  # the true error is what was asked for
    assert len(set(stops.tolist())) > 1 and fewest / 3 <= int(stops.min()) and float(stops.double().mean()) < rows * 0.7


def test_looks_stop_where_the_simulation_does() -> None:
    numerator, denominator = skewed_rows(40, 400, 0.5, seed=3)
    found, stops = stopped(numerator, denominator, 0.05)
    for a, b, value, stop in zip(numerator, denominator, found.tolist(), stops.tolist(), strict=True):
        looking = PrecisionLooks({KL: 0.05}, rows=400, context=128)
        for end in looking.at:
            sums = {name: torch.ones(end) for name in Downstream.row_columns}
            sums |= {"kl_divergence": a[:end], "positions": b[:end]}
            if looking([{"downstream": Sums(sums)}], end):
                break
        assert looking.rows == stop
        assert ratio_estimate(a[: looking.rows], b[: looking.rows]).value == pytest.approx(value, rel=1e-12)
        reached = looking.reached(0)[KL]
        met = reached.relative_error is not None and reached.relative_error <= 0.05
        assert reached.tokens == (stop * 128 if met else None)


def test_looks_are_few_and_spaced() -> None:
    assert looks(256) == [64, 96, 144, 216, 256]
    assert looks(40) == [40] and looks(64) == [64]
    assert len(looks(1_000_000)) == 25


def test_an_error_that_rises_again_is_not_reached_and_failed_evaluators_are_not_waited_for() -> None:
    looking = PrecisionLooks({KL: 0.1}, rows=200, context=10)
    sums = {name: torch.ones(100) for name in Downstream.row_columns}
    assert looking([{"downstream": Sums(sums)}, {}], 64)  # all rows alike; the second has failed
    assert looking.reached(0)[KL].tokens == 640
    one_large = {**sums, "kl_divergence": torch.tensor([100.0] + [1.0] * 99)}
    assert not looking([{"downstream": Sums(one_large)}, {}], 96)
    assert looking.reached(0)[KL].tokens is None
    assert relative_error({"downstream": Sums(one_large)}, KL) == pytest.approx(
        (100 / 99 * ((100 - 1.99) ** 2 + 99 * 0.99**2)) ** 0.5 / 199
    )


def test_precision_is_read_from_text() -> None:
    assert parse_precision("2%") == {"": 0.02} and parse_precision(" 0.005") == {"": 0.005}
    assert parse_precision("kl_divergence=1%, normalised_mse=2%") == {"kl_divergence": 0.01, "normalised_mse": 0.02}
    assert targets_of("2%", CORE) == dict.fromkeys(("reconstruction.normalised_mse", "downstream.ce_difference", KL), 0.02)
    assert targets_of({KL: 0.01}, CORE) == {KL: 0.01}
    assert targets_of(0.05, {"reconstruction": CORE["reconstruction"]}) == {"reconstruction.normalised_mse": 0.05}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0%", "is '0%'; it must be a relative standard error such as 2%"),
        ("-1%", "is '-1%'; it must be"),
        ("150%", "must be a relative standard error"),
        ("nan", "must be a relative standard error"),
        ("kl_divergence=", "must be a relative standard error"),
        ("kl_divergence=1%,2%", "Cannot read the precision"),
        ("l0=1%,l0=2%", "with each metric once"),
        ("", "The precision is empty"),
        ("kl_diverg=1%", "'kl_diverg' is no metric with a standard error over rows .* these are: normalised_mse, "),
        ("dead_latents=1%", "'dead_latents' is no metric with a standard error over rows"),
        ("loss_recovered=1%", "'loss_recovered' is no metric .* that is known during the pass"),
        ("encoder_decoder_cosine=1%", "is no metric with a standard error over rows"),
    ],
)
def test_what_cannot_be_a_precision_is_refused_in_one_sentence(given: str, words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        targets_of(given, CORE)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resume": True}, "cannot be resumed"),
        ({"suite": "quick"}, "without --suite"),
        ({"evaluators": ["dictionary"]}, "add reconstruction or downstream"),
        ({"precision": "l0=0"}, "must be a relative standard error"),
    ],
)
def test_refusals_come_before_heavy_work(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The checkpoint does not exist: the precision is looked at first."""
    with pytest.raises(SaebenchError, match=words):
        saebench.evaluate(str(tmp_path / "none"), progress=False, **{"precision": "2%", **settings})


@pytest.fixture(scope="module")
def long_corpus(tiny_model: LanguageModel) -> TokenCorpus:
    rows = torch.randint(3, 200, (400, 12), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    return make_corpus(rows, tiny_model.tokenizer, name="random tokens", bos="row")


def test_a_result_is_that_of_as_many_tokens_asked_for_at_once(
    tiny_model: LanguageModel, long_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder], tmp_path: Path
) -> None:
    saes = [make_sae(seed=1), make_sae(seed=2)]
    common: dict[str, Any] = {
        "model": tiny_model, "hook": HOOK, "progress": False, "evaluators": ["reconstruction", "downstream", "shrinkage"],
        "controls": ["random"],
    }  # fmt: skip
    targets = {"normalised_mse": 0.01, "kl_divergence": 0.01}
    cards = saebench.evaluate(saes, corpus=long_corpus, precision=targets, out=tmp_path, batch=5, **common)
    rows = {card.result.corpus.rows for card in cards}
    (many,) = rows
    assert many in looks(400)[1:-1]  # both on the same rows, of which some were needed
    plain = saebench.evaluate(saes, corpus=long_corpus.first(many), **common)
    for card, other in zip(cards, plain, strict=True):
        assert card.result.failures == {} and card.result.complete
        assert card.result.corpus == other.result.corpus
        found, expected = card.frame(), other.frame()
        assert found.index.equals(expected.index)
        for column in ("value", "standard_error"):
            values = (torch.tensor(each[column].astype(float).fillna(-1).to_numpy()) for each in (found, expected))
            torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)
        reached = card.result.precision
        assert list(reached) == ["reconstruction.normalised_mse", KL]
        for path, each in reached.items():
            metric = card.metric(path)
            assert each.tokens is not None and each.tokens // 12 in looks(400) and each.tokens <= many * 12
            assert metric.standard_error is not None and metric.value is not None
            assert each.relative_error == pytest.approx(metric.standard_error / metric.value, rel=1e-6)
            assert each.relative_error is not None and each.relative_error <= each.target
        assert saebench.results.read_result(tmp_path / f"made-in-a-test-{cards.index(card)}.json") == card.result
        assert f"{KL}: a relative error of 1.00% was reached after {reached[KL].tokens:,} tokens" in render_text(card.result)
    assert max(each.tokens or 0 for card in cards for each in card.result.precision.values()) == many * 12


def test_what_is_not_reached_is_said(
    tiny_model: LanguageModel, long_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    corpus = replace(long_corpus.first(70), tokens_requested=840)
    card = saebench.evaluate(
        make_sae(), model=tiny_model, hook=HOOK, corpus=corpus, precision="kl_divergence=0.1%,l0=50%", progress=False
    )
    assert card.result.corpus.rows == 70
    reached = card.result.precision[KL]
    assert isinstance(reached, Reached) and reached.tokens is None and (reached.relative_error or 0) > 0.001
    assert card.result.precision["reconstruction.l0"].tokens == 64 * 12
    assert f"{KL}: a relative error of 0.10% was not reached in 840 tokens" in render_text(card.result)
