from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.codes.refinement import refine
from saebench.lm import LanguageModel
from saebench.results import EvaluatorResult
from saebench.sae import JumpReLU, ReLU, SparseAutoencoder, SparseLatents, TopK
from saebench.sae.scaling import InputScaling
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK


def run(sae: Any, model: LanguageModel, corpus: TokenCorpus, **settings: Any) -> EvaluatorResult:
    card = saebench.evaluate(
        sae, model=model, hook=HOOK, corpus=corpus, evaluators=["shrinkage", "downstream", "reconstruction"],
        progress=False, **settings,
    )  # fmt: skip
    assert card.result.failures == {}
    results = card.result.evaluators
    before = {"normalised_mse_before": "reconstruction", "ce_difference_before": "downstream"}
    for name, other in before.items():
        rows = settings.get("options", {}).get("shrinkage", {}).get("downstream_rows", 16)
        if other == "reconstruction" or rows >= corpus.tokens.shape[0]:
            same = results[other].metrics[name.removesuffix("_before")]
            assert results["shrinkage"].metrics[name].value == pytest.approx(same.value, rel=1e-4)
    return results["shrinkage"]


def orthonormal(make_sae: Callable[..., SparseAutoencoder], scale: float) -> SparseAutoencoder:
    """Two opposite halves of an orthonormal basis: a ReLU code of it is exact; its values are then multiplied."""
    basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    both = torch.cat([basis, -basis])
    return make_sae(activation=ReLU(), W_dec=both, W_enc=both.T * scale)


def test_values_shrunk_to_four_fifths_are_found_out(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    options = {"shrinkage": {"downstream_rows": 24}}
    result = run(orthonormal(make_sae, 0.8), tiny_model, tiny_corpus, options=options)
    metrics = result.metrics
    assert metrics["value_ratio"].value == pytest.approx(1.25, rel=1e-5)
    assert metrics["mean_value_ratio"].value == pytest.approx(1.25, rel=1e-4)
    assert metrics["zeroed"].value == 0
    assert result.details["converged_share"] == 1
    groups = result.details["by_magnitude"]
    large = [ratio for least, ratio in zip(groups["least_value"], groups["value_ratio"], strict=True) if least > 1e-3]
    assert len(large) > 5 and large == pytest.approx([1.25] * len(large), rel=1e-3)  # smaller ones are rounding errors' size
    assert metrics["normalised_mse_after"].value == pytest.approx(0, abs=1e-9)
    assert metrics["ce_difference_after"].value == pytest.approx(0, abs=1e-5)
    assert metrics["kl_divergence_after"].value == pytest.approx(0, abs=1e-5)
    assert (metrics["kl_divergence_before"].value or 0) > 1e-4
    assert metrics["value_ratio"].n == sum(result.details["by_magnitude"]["active"])


def test_best_values_stay(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    metrics = run(orthonormal(make_sae, 1.0), tiny_model, tiny_corpus).metrics
    assert metrics["value_ratio"].value == pytest.approx(1, rel=1e-5)
    assert metrics["normalised_mse_before"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["none", "layer_norm", "dataset"])
def test_refined_values_are_scipys(make_sae: Callable[..., SparseAutoencoder], kind: Any) -> None:
    """With biases, input scaling, a skip connection, empty slots and negative values."""
    generator = torch.Generator().manual_seed(3)
    sae = make_sae(
        activation=JumpReLU(torch.full((64,), 0.5)),
        b_dec=torch.randn(32, generator=generator),
        W_skip=torch.randn(32, 32, generator=generator) / 10,
        scaling=InputScaling(kind, 2.0, 3.0),
    )
    x = torch.randn(40, 32, generator=generator) + 1
    latents = sae.encode(x)
    flip = torch.where(latents.indices % 3 == 0, -1.0, 1.0)
    latents = SparseLatents(latents.indices, latents.values * flip, 64, latents.shift, latents.factor)
    found = refine(sae, latents, x - sae.decode(latents, x))
    assert bool(found.converged.all())
    for token in range(40):
        active = latents.active[token]
        factor = 1.0 if latents.factor is None else float(latents.factor[token])
        nothing = torch.zeros(1, active.numel(), dtype=torch.bool)
        one = slice(token, token + 1)
        rest = x[token] - sae.decode(latents.rows(one).where(nothing), x[one])[0]
        signs = latents.values[token][active].sign()
        columns = (sae.W_dec[latents.indices[token][active]] * signs.unsqueeze(1) * factor).T
        expected = nnls(columns.double().numpy(), rest.double().numpy())[0]
        measured = (found.latents.values[token][active] * signs).tolist()
        assert measured == pytest.approx(expected.tolist(), abs=2e-4)
        assert bool((found.latents.values[token][~active] == 0).all())


def test_numbers_do_not_depend_on_the_batch(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    sae = make_sae(activation=TopK(12), W_enc=make_sae(seed=1).W_enc)
    options = {"shrinkage": {"downstream_rows": 5}}
    one, other = (run(sae, tiny_model, tiny_corpus, batch=size, options=options) for size in (24, 5))
    for name, found in one.metrics.items():
        assert other.metrics[name].value == pytest.approx(found.value, rel=1e-4), name
        assert other.metrics[name].n == found.n
    assert one.metrics["ce_difference_after"].n in (5 * 14, 5 * 14 - 2)
    before, after = one.metrics["normalised_mse_before"].value, one.metrics["normalised_mse_after"].value
    assert before is not None and after is not None and after < before
    assert (one.metrics["zeroed"].value or 0) > 0


def test_objects_without_weights_are_rejected(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    class Identity:
        def encode(self, x: Tensor) -> Tensor:
            return x

        def decode(self, z: Tensor) -> Tensor:
            return z

    with pytest.raises(SaebenchError, match="shrinkage needs weights"):
        run(Identity(), tiny_model, tiny_corpus)
