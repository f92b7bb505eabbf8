"""Controls have the stated properties, and are reported with the score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import saebench
from saebench.errors import SaebenchError
from saebench.evaluation.controls import Sample, pca_autoencoder, random_autoencoder, reinitialised
from saebench.lm import LanguageModel
from saebench.results import read_result
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

Make = Callable[..., SparseAutoencoder]


def test_pca_is_the_best_linear_code_of_its_rank(make_sae: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 32, generator=generator) * torch.linspace(3, 0.1, 32) + 2
    sae = pca_autoencoder(make_sae(activation=TopK(5)), Sample(x, x))
    reconstruction = sae.decode(sae.encode(x), x)
    centred = (x - x.mean(0)).double()
    expected = torch.linalg.svdvals(centred)[5:].square().sum()  # Eckart and Young
    assert float((reconstruction - x).double().square().sum()) == pytest.approx(float(expected), rel=1e-4)
    assert sae.n_latents == 5


def test_pca_predicts_another_place_by_least_squares(make_sae: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(300, 32, generator=generator), torch.randn(32, 32, generator=generator)
    y = x @ weights + 1
    sae = pca_autoencoder(make_sae(activation=TopK(32, relu=False)), Sample(x, y))
    torch.testing.assert_close(sae.decode(sae.encode(x), x), y, rtol=1e-3, atol=1e-3)


def test_a_random_autoencoder_has_width_and_l0_of_the_one_it_replaces(make_sae: Make) -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    sae = random_autoencoder(make_sae(n=128, activation=TopK(8)), Sample(x, x), seed=3)
    again = random_autoencoder(make_sae(n=128, activation=TopK(8)), Sample(x, x), seed=3)
    assert sae.n_latents == 128 and torch.equal(sae.W_dec, again.W_dec)
    assert float(sae.encode(x).l0().double().mean()) == pytest.approx(8, abs=0.5)
    error = (sae.decode(sae.encode(x), x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert 0.4 < float(error) < 1.2


def test_a_reinitialised_model_is_another_one_and_comes_back(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    tokens, identity = tiny_corpus.tokens[:2], tiny_model.identity
    before = tiny_model.logits(tokens)
    with reinitialised(tiny_model, 0):
        inside = tiny_model.logits(tokens)
        assert tiny_model.identity != identity
    with reinitialised(tiny_model, 0):
        torch.testing.assert_close(tiny_model.logits(tokens), inside, rtol=0, atol=0)
    assert not torch.allclose(inside, before, atol=0.1)
    assert torch.equal(tiny_model.logits(tokens), before) and tiny_model.identity == identity


def test_controls_are_in_the_result_and_are_resumed(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    settings = {"model": tiny_model, "corpus": tiny_corpus, "hook": HOOK, "progress": False}
    alone = saebench.evaluate(make_sae(), evaluators=["reconstruction"], out=out, **settings)
    assert alone.result.controls == {}
    names = ["random", "pca", "reinitialised"]
    card = saebench.evaluate(
        make_sae(), evaluators=["reconstruction", "downstream"], controls=names, out=out, resume=True, **settings
    )
    result = read_result(out)
    assert result.complete and list(result.controls) == names and not result.failures
    errors = {name: result.controls[name]["reconstruction"].metrics["normalised_mse"].value for name in names}
    own = card.result.metric("reconstruction.normalised_mse").value
    assert None not in errors.values() and own is not None
    assert errors["pca"] != own != errors["random"] and errors["reinitialised"] != own
    assert result.controls["random"]["downstream"].metrics["kl_divergence"].value is not None
    assert result.controls["pca"]["reconstruction"].metrics["l0"].value == pytest.approx(8)
    alike = saebench.evaluate(make_sae(seed=0), evaluators=["reconstruction"], controls=["pca"], **settings)
    assert alike.result.controls["pca"]["reconstruction"].metrics["normalised_mse"].value == errors["pca"]


def test_an_unknown_control_is_named(tiny_model: LanguageModel, make_sae: Make) -> None:
    with pytest.raises(SaebenchError, match="no control 'pcs'; there are: random, pca, reinitialised"):
        saebench.evaluate(make_sae(), model=tiny_model, hook=HOOK, controls=["pcs"])
