from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import saebench
from saebench.lm import LanguageModel
from saebench.results import EvaluatorResult
from saebench.sae import JumpReLU, ReLU, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK
from tests.evaluators.helpers import PlainSae, result_of

ALL_ROWS = {"downstream_rows": 24, "calibration_rows": 24}
Make = Callable[..., SparseAutoencoder]


def run(sae: Any, model: LanguageModel, corpus: TokenCorpus, batch: int = 24, **options: int) -> EvaluatorResult:
    return result_of("progressive", sae, model, corpus, ALL_ROWS | options, hook=HOOK, batch=batch)


def core(sae: Any, model: LanguageModel, corpus: TokenCorpus) -> tuple[float, float, float]:
    """L0, normalised MSE and cross-entropy difference by the evaluators that measure a single code."""
    card = saebench.evaluate(sae, model=model, hook=HOOK, corpus=corpus, progress=False)
    names = ("reconstruction.l0", "reconstruction.normalised_mse", "downstream.ce_difference")
    found = [card[name] for name in names]
    assert None not in found
    return tuple(found)  # type: ignore[return-value]


def at(curve: dict[str, list[Any]], place: int) -> list[Any]:
    return [curve[name][place] for name in ("l0", "normalised_mse", "ce_difference")]


def activations(model: LanguageModel, corpus: TokenCorpus) -> Tensor:
    return model.cut(HOOK).prefix(corpus.tokens).outputs[~corpus.excluded].double()


def test_orthonormal_decoders_follow_the_closed_form(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make
) -> None:
    """The error of keeping k' coordinates of an orthonormal basis is the sum of the other squares."""
    basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    sae = make_sae(n=32, W_dec=basis, W_enc=basis.T, b_enc=torch.zeros(32), activation=TopK(32, relu=False, signed=True))
    result = run(sae, tiny_model, tiny_corpus)
    x = activations(tiny_model, tiny_corpus)
    variance = (x - x.mean(0)).square().sum()
    squares = (x @ basis.T.double()).square()
    ordered = squares.sort(dim=1, descending=True).values
    curve = result.details["by_count"]
    assert curve["level"] == [1, 2, 4, 8, 16, 32] and curve["l0"] == [1, 2, 4, 8, 16, 32]
    expected = [float(ordered[:, count:].sum() / variance) for count in curve["level"]]
    assert curve["normalised_mse"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
    middles = [(left + right) / 2 for left, right in pairwise(expected)]
    assert result.metrics["normalised_mse_area"].value == pytest.approx(sum(middles) / 5, rel=1e-4)
    fixed = result.details["by_threshold"]
    for threshold, value, l0 in zip(fixed["threshold"], fixed["normalised_mse"], fixed["l0"], strict=True):
        below = squares.sqrt() <= threshold
        assert value == pytest.approx(float(squares[below].sum() / variance), rel=1e-4, abs=1e-9)
        assert l0 == pytest.approx(float((~below).sum()) / x.shape[0], rel=1e-3)
    assert fixed["l0"][:5] == pytest.approx([1, 2, 4, 8, 16], rel=0.01)
    assert result.metrics["error_at_2k"].value is None


def test_each_level_is_an_autoencoder_of_that_k(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    result = run(make_sae(activation=TopK(6)), tiny_model, tiny_corpus)
    curve, fixed = result.details["by_count"], result.details["by_threshold"]
    assert curve["level"] == [1, 2, 4, 6, 12, 24]
    values = {}
    for place, count in enumerate(curve["level"]):
        values[count] = core(make_sae(activation=TopK(count)), tiny_model, tiny_corpus)
        assert at(curve, place) == pytest.approx(values[count], rel=1e-4, abs=1e-5)
        threshold = torch.full((64,), fixed["threshold"][place])
        assert at(fixed, place) == pytest.approx(
            core(make_sae(activation=JumpReLU(threshold)), tiny_model, tiny_corpus), rel=1e-3, abs=1e-4
        )
    assert result.metrics["error_at_2k"].value == pytest.approx(values[12][1] / values[6][1], rel=1e-4)
    assert result.metrics["error_at_4k"].value == pytest.approx(values[24][1] / values[6][1], rel=1e-4)
    parts = [(1, 2, 1.0), (2, 4, 1.0), (4, 6, math.log2(1.5))]
    area = sum((values[low][2] + values[high][2]) / 2 * width for low, high, width in parts) / math.log2(6)
    assert result.metrics["ce_difference_area"].value == pytest.approx(area, rel=1e-3)
    assert result.details["own_l0"] == pytest.approx(6)


def test_matryoshka_prefixes_are_read_alone(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    sae = make_sae(activation=JumpReLU(torch.full((64,), 0.6), "batchtopk"))
    sae = replace(sae, info=replace(sae.info, group_sizes=(8, 8, 16, 32)))
    result = run(sae, tiny_model, tiny_corpus)
    curve = result.details["by_prefix"]
    assert curve["latents"] == [8, 16, 32, 64]
    errors = []
    for place, size in enumerate(curve["latents"]):
        expected = core(sae.prefix(size), tiny_model, tiny_corpus)
        assert at(curve, place) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        errors.append(expected[1])
    area = (errors[0] / 2 + errors[1] + errors[2] + errors[3] / 2) / 3
    assert result.metrics["prefix_normalised_mse_area"].value == pytest.approx(area, rel=1e-4)
    assert result.metrics["error_at_2k"].value is not None


def test_what_has_no_more_latents_says_so(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    sae = make_sae(activation=ReLU())
    result, foreign = run(sae, tiny_model, tiny_corpus), run(PlainSae(sae), tiny_model, tiny_corpus)
    assert result.metrics["error_at_2k"].reason == "the autoencoder has no further pre-activations to let in"
    assert result.metrics["prefix_normalised_mse_area"].reason == "the autoencoder has no nested prefixes"
    own = core(sae, tiny_model, tiny_corpus)
    assert result.details["own_l0"] == pytest.approx(own[0], rel=1e-4)
    assert at(result.details["by_count"], -1) == pytest.approx(own, rel=1e-4, abs=1e-5)
    for name in ("normalised_mse_area", "threshold_normalised_mse_area", "ce_difference_area"):
        assert foreign.metrics[name].value == pytest.approx(result.metrics[name].value, rel=1e-3)


def test_a_silent_autoencoder_is_undefined(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    result = run(make_sae(activation=ReLU(), b_enc=torch.full((64,), -1e6)), tiny_model, tiny_corpus)
    assert result.metrics["normalised_mse_area"].value is None
    assert (
        result.metrics["ce_difference_area"].reason
        == "the autoencoder has a single level: fewer than two latents are active"
    )


def test_numbers_do_not_depend_on_the_batch(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    sae = make_sae(activation=TopK(6))
    rows = {"downstream_rows": 5, "calibration_rows": 4}
    one, other = (run(sae, tiny_model, tiny_corpus, batch=size, **rows) for size in (24, 5))
    assert other.details["by_threshold"]["threshold"] == one.details["by_threshold"]["threshold"]
    for name, found in one.metrics.items():
        assert found.n == other.metrics[name].n
        assert other.metrics[name].value == (None if found.value is None else pytest.approx(found.value, rel=1e-4))
