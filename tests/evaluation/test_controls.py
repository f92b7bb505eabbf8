"""Controls have the stated properties, and are reported with the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import saebench
from saebench.errors import SaebenchError
from saebench.evaluation.controls import Control, Sample, l0_on_grid, measured_l0, reinitialised
from saebench.evaluation.hook_run import HookRun
from saebench.evaluation.record import Record
from saebench.lm import LanguageModel
from saebench.results import read_result
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

Make = Callable[..., SparseAutoencoder]


def made(name: str, like: SparseAutoencoder, sample: Sample, seed: int = 0) -> SparseAutoencoder:
    return Control.of(name, like, measured_l0(like, sample), sample).make(sample, seed)


def test_pca_is_the_best_linear_code_of_its_rank(make_sae: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 32, generator=generator) * torch.linspace(3, 0.1, 32) + 2
    sae = made("pca", make_sae(activation=TopK(5)), Sample(x, x))
    reconstruction = sae.decode(sae.encode(x), x)
    centred = (x - x.mean(0)).double()
    expected = torch.linalg.svdvals(centred)[5:].square().sum()  # Eckart and Young
    assert float((reconstruction - x).double().square().sum()) == pytest.approx(float(expected), rel=1e-4)
    assert sae.n_latents == 5


def test_pca_predicts_another_place_by_least_squares(make_sae: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(300, 32, generator=generator), torch.randn(32, 32, generator=generator)
    y = x @ weights + 1
    sae = made("pca", make_sae(activation=TopK(32, relu=False)), Sample(x, y))
    torch.testing.assert_close(sae.decode(sae.encode(x), x), y, rtol=1e-3, atol=1e-3)


def test_a_random_autoencoder_has_width_and_l0_of_the_one_it_replaces(make_sae: Make) -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    sae = made("random", make_sae(n=128, activation=TopK(8)), Sample(x, x), seed=3)
    again = made("random", make_sae(n=128, activation=TopK(8)), Sample(x, x), seed=3)
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


@pytest.mark.parametrize("control", ["random", "reinitialised"])
def test_an_interrupted_control_keeps_what_was_computed(
    control: str, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "result.json"
    settings = {
        "model": tiny_model, "corpus": tiny_corpus, "hook": HOOK, "progress": False, "controls": [control],
        "evaluators": ["reconstruction", "dictionary"],
    }  # fmt: skip
    run, asked = HookRun._run_standalone, list[Record]()

    def interrupted(self: HookRun, record: Record, *rest: Any) -> None:
        if record.path is None:
            asked.append(record)
            if len(asked) == 1:
                raise KeyboardInterrupt
        run(self, record, *rest)

    monkeypatch.setattr(HookRun, "_run_standalone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saebench.evaluate(make_sae(), out=out, **settings)
    kept = read_result(out)
    assert not kept.complete and list(kept.controls[control]) == ["reconstruction"]
    card = saebench.evaluate(make_sae(), out=out, resume=True, **settings)
    assert list(asked[1].evaluators) == ["dictionary"], "the other evaluator ran again"
    whole = saebench.evaluate(make_sae(), **settings).result.controls[control]
    assert card.result.complete and {name: each.metrics for name, each in card.result.controls[control].items()} == {
        name: each.metrics for name, each in whole.items()
    }


def test_controls_depend_on_width_and_l0_alone_and_are_made_once(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_: list[Control] = []
    make = Control.make
    monkeypatch.setattr(Control, "make", lambda self, *rest: made_.append(self) or make(self, *rest))
    settings = {
        "model": tiny_model, "corpus": tiny_corpus, "hook": HOOK, "progress": False, "controls": ["random", "pca"],
        "evaluators": ["reconstruction", "downstream", "dictionary"],
    }  # fmt: skip
    saes = [make_sae(seed=0), make_sae(seed=1), make_sae(seed=0, activation=TopK(4)), make_sae(seed=0, n=96)]
    cards = saebench.evaluate(saes, **settings)
    assert [(each.name, each.n, each.k) for each in made_] == [
        ("random", 64, 8), ("random", 64, 4), ("random", 96, 8), ("pca", 8, 8), ("pca", 4, 4)
    ]  # fmt: skip
    for sae, card in zip(saes, cards, strict=True):
        alone = saebench.evaluate(sae, **settings).result
        for name in ("random", "pca"):
            mine, its = (each.controls[name] for each in (card.result, alone))
            assert mine.keys() == its.keys() == {"reconstruction", "downstream", "dictionary"}
            for evaluator, found in mine.items():
                values, expected = (
                    {key: metric.value for key, metric in each.metrics.items() if metric.value is not None}
                    for each in (found, its[evaluator])
                )
                assert values == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert cards[2].result.settings["controls"] == {
        "random": {"seed": 0, "n_latents": 64, "l0": 4}, "pca": {"seed": 0, "n_latents": 4, "l0": 4}
    }  # fmt: skip


def test_a_finished_autoencoder_gives_its_controls_to_those_that_join_it(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "model": tiny_model, "corpus": tiny_corpus, "hook": HOOK, "progress": False, "controls": ["random", "pca"],
        "evaluators": ["reconstruction", "dictionary"], "resume": True,
    }  # fmt: skip
    saes = [make_sae(seed=0), make_sae(seed=1), make_sae(seed=1, activation=TopK(4))]
    named = [replace(sae, info=replace(sae.info, origin=f"sae{number}")) for number, sae in enumerate(saes)]
    first = saebench.evaluate(named[:1], out=tmp_path, **settings)[0].result
    made_: list[Control] = []
    make = Control.make
    monkeypatch.setattr(Control, "make", lambda self, *rest: made_.append(self) or make(self, *rest))
    saebench.evaluate(named, out=tmp_path, **settings)
    assert [(each.name, each.k) for each in made_] == [("random", 4), ("pca", 4)]
    joined = read_result(tmp_path / "sae1.json")
    assert joined.complete and joined.controls == first.controls
    assert joined.settings["controls"] == first.settings["controls"]


@pytest.mark.parametrize(("l0", "expected"), [(0.2, 1), (8.1, 8), (31.0, 32), (33.2, 32), (33.9, 35), (64, 64), (130, 128)])
def test_near_l0_share_a_control(l0: float, expected: int) -> None:
    assert l0_on_grid(l0) == expected


def test_an_unknown_control_is_named(tiny_model: LanguageModel, make_sae: Make) -> None:
    with pytest.raises(SaebenchError, match="no control 'pcs'; there are: random, pca, reinitialised"):
        saebench.evaluate(make_sae(), model=tiny_model, hook=HOOK, controls=["pcs"])
