"""Spurious correlation removal and targeted probe perturbation: planted answers, and agreement with decoding every text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.sparse import csr_array

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.concepts.base import read_concept_protocol
from saebench.evaluators.concepts.effects import Concepts, largest, together
from saebench.evaluators.concepts.scr import SpuriousCorrelationRemoval, _score, _splits
from saebench.evaluators.concepts.tpp import TargetedProbePerturbation
from saebench.lm import LanguageModel
from saebench.probing.activations import TextActivations
from saebench.probing.class_texts import Unit
from saebench.probing.linear import Dense, Fitted, fit_linear
from saebench.probing.pooled import pooled_latents
from saebench.probing.problems import Problem, one_against_rest
from saebench.probing.values import pool
from saebench.sae import InputScaling, SparseAutoencoder
from saebench.tasks.classes import Cell
from saebench.text.corpus import TokenCorpus
from tests.evaluators.class_sets import write_sets

Make = Callable[..., SparseAutoencoder]
PAIRS = 'pairs = [["one", "two"], ["two", "three"]]'


def run(name: str, sae: Any, model: LanguageModel, corpus: TokenCorpus, folder: Path, **options: Any) -> Any:
    return saebench.evaluate(
        sae, model=model, corpus=corpus, evaluators=[name], data_dir=folder, progress=False,
        options={name: {"train": 400, "test": 100} | options},
    )  # fmt: skip


class Fake:
    """An evaluator's protocol without a model."""

    protocol = read_concept_protocol()


@pytest.mark.parametrize("scaling", ["none", "layer_norm"])
def test_logits_without_latents_are_those_of_decoding_every_token(make_sae: Make, scaling: Any) -> None:
    """Also where the autoencoder normalises tokens: SAEBench ranks its latents in other units than it ablates them in."""
    sae = make_sae(scaling=InputScaling(scaling))
    generator = torch.Generator().manual_seed(0)
    rows, owner = torch.randn(90, 32, generator=generator), torch.arange(30).repeat_interleave(3)
    fitted = Fitted(torch.randn(2, 32, generator=generator), torch.zeros(2), torch.ones(2, dtype=torch.int64))
    latents = pooled_latents(sae, TextActivations(rows, owner, 0, "", False), 30, "mean", scaled=True)
    found = Concepts(pool(rows, owner, 30, "mean"), latents, sae.W_dec, fitted)
    chosen = torch.tensor([3, 11, 40])
    code = sae.encode(rows)
    without = code.where(~torch.isin(code.indices, chosen))
    slow = pool(rows - sae.decode(code, rows) + sae.decode(without, rows), owner, 30, "mean") @ fitted.weight.T
    fast = found.activations @ fitted.weight.T - found.changes(chosen)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_effects_are_differences_of_means_times_dot_products(make_sae: Make) -> None:
    sae = make_sae()
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(40, 64, generator=generator)
    weight = torch.randn(1, 32, generator=generator)
    found = Concepts(
        torch.zeros(40, 32), csr_array(latents.numpy()), sae.W_dec, Fitted(weight, torch.zeros(1), torch.ones(1))
    )
    split = one_against_rest({"a": 20, "b": 20}, 0, "a", generator)
    difference = latents[:20].double().mean(dim=0) - latents[20:].double().mean(dim=0)
    dots = (sae.W_dec @ weight[0]).double()
    torch.testing.assert_close(found.effects(0, split, signed=False), (difference * dots).abs())
    torch.testing.assert_close(found.effects(0, split, signed=True), difference.clamp_min(0) * dots)


def test_latents_without_effect_are_never_ablated() -> None:
    assert largest(torch.tensor([0.0, 3, 0, 1]), 3).tolist() == [1, 3]
    assert largest(torch.zeros(4), 2).tolist() == []


def test_an_ablation_that_changes_nothing_scores_exactly_0() -> None:
    """SAEBench draws the texts of other classes again for each accuracy, and takes the difference for an effect."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(120, 4, generator=generator)
    problems = {
        name: Problem(*(one_against_rest(dict.fromkeys("abc", 20), start, name, generator) for start in (0, 60)))
        for name in "abc"
    }
    fitted = Fitted(torch.randn(3, 4, generator=generator), torch.zeros(3), torch.ones(3, dtype=torch.int64))
    silent = Concepts(values, csr_array((120, 8)), torch.randn(8, 4, generator=generator), fitted)
    data = TargetedProbePerturbation.measure(Fake, silent, Unit([], problems, {}))  # type: ignore[arg-type]
    metrics = TargetedProbePerturbation.metrics_of({"sets": {"s": {"units": {"u": data}}}, "missing": {}})
    assert min(data["clean"].values()) > 0.2 and {each.value for each in metrics} == {0.0}


def test_a_dictionary_with_one_latent_a_class_perturbs_its_probe_alone() -> None:
    """Each class has a channel; the latents are the channels. Without its latent a class's probe knows nothing."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"train": {name: 200 for name in "abc"}, "test": {name: 60 for name in "abc"}}
    label = torch.cat([torch.arange(3).repeat_interleave(200), torch.arange(3).repeat_interleave(60)])
    values = torch.nn.functional.one_hot(label, 3) * 3.0 + torch.rand(780, 3, generator=generator) * 0.1
    problems = {
        name: Problem(
            one_against_rest(sizes["train"], 0, name, generator), one_against_rest(sizes["test"], 600, name, generator)
        )
        for name in "abc"
    }
    settings = read_concept_protocol().probe.model_copy(update={"rate": 0.01})
    fitted = fit_linear(Dense(values), together([each.train for each in problems.values()]), settings, 0)
    found = Concepts(values, csr_array(values.numpy()), torch.eye(3), fitted)
    data = TargetedProbePerturbation.measure(Fake, found, Unit([], problems, {}))  # type: ignore[arg-type]
    assert set(data["clean"].values()) == {1.0}
    one = {key: value for key, value in data.items()}
    metrics = {
        each.name: each.value
        for each in TargetedProbePerturbation.metrics_of({"sets": {"s": {"units": {"u": one}}}, "missing": {}})
    }
    assert metrics["tpp_threshold_2_intended_diff_only"] >= 0.3
    assert metrics["tpp_threshold_2_total_metric"] == pytest.approx(
        metrics["tpp_threshold_2_intended_diff_only"] - metrics["tpp_threshold_2_unintended_diff_only"]
    )
    merged = Concepts(values, csr_array(values.sum(dim=1, keepdim=True).numpy()), torch.ones(1, 3) / 3, fitted)
    poor = TargetedProbePerturbation.measure(Fake, merged, Unit([], problems, {}))  # type: ignore[arg-type]
    worse = TargetedProbePerturbation.metrics_of({"sets": {"s": {"units": {"u": poor}}}, "missing": {}})
    assert worse[0].value < metrics["tpp_threshold_2_total_metric"]


def scr_world() -> tuple[torch.Tensor, dict[str, Problem]]:
    """Two attributes with a channel each; the second is the stronger, so that a biased probe reads it."""
    generator = torch.Generator().manual_seed(0)
    pair, second = ("a", "b"), ("left", "right")
    values, splits, start = [], [], 0
    for size in (100, 50):
        cells = {}
        for one in pair:
            for other in second:
                count = size * (2 if (one, other) in (("a", "left"), ("b", "right")) else 1)
                cells[Cell(one, other)] = ["text"] * count
                both = torch.tensor([1.0 if one == "a" else -1.0, 4.0 if other == "left" else -4.0])
                values.append(both + torch.randn(count, 2, generator=generator) * 0.1)
        splits.append(_splits(cells, pair, second, start, generator))
        start += sum(map(len, cells.values()))
    return torch.cat(values), {name: Problem(splits[0][name], splits[1][name]) for name in splits[0]}


def test_a_spurious_latent_that_is_ablated_gives_the_clean_accuracy_back() -> None:
    values, problems = scr_world()
    assert problems["first"].train.rows.numel() == problems["biased"].train.rows.numel() == 400
    settings = read_concept_protocol().probe.model_copy(update={"rate": 0.01})
    fitted = fit_linear(Dense(values), together([each.train for each in problems.values()]), settings, 0)
    code = torch.cat([values, -values], dim=1).relu()  # a latent for either sign of a channel
    decoder = torch.cat([torch.eye(2), -torch.eye(2)])
    found = Concepts(values, csr_array(code.numpy()), decoder, fitted)
    data = SpuriousCorrelationRemoval.measure(Fake, found, Unit([], problems, {}))  # type: ignore[arg-type]
    assert data["clean"]["dir1"] == 1 and data["original"]["dir1"] < 0.6 < 0.9 < data["original"]["dir2"]
    metrics = SpuriousCorrelationRemoval.metrics_of({"sets": {"s": {"units": {"u": data}}}, "missing": {}})
    by_name = {each.name: each for each in metrics}
    assert by_name["scr_metric_threshold_2"].value == pytest.approx(1)
    assert by_name["scr_metric_threshold_2"].value == by_name["scr_dir1_threshold_2"].value
    none = Concepts(values, csr_array(code.numpy() * 0), decoder, fitted)
    data = SpuriousCorrelationRemoval.measure(Fake, none, Unit([], problems, {}))  # type: ignore[arg-type]
    assert all(gain == [0, 0] for by_n in data["gains"].values() for gain in by_n.values())


def test_a_probe_that_lost_nothing_scores_0() -> None:
    unit = {"clean": {"dir1": 0.9}, "original": {"dir1": 0.8995}, "gains": {"dir1": {"2": [0.05, 0.01]}}}
    assert _score(unit, "dir1", "2", 0.001) == (0, 0)
    unit["original"]["dir1"] = 0.5
    assert _score(unit, "dir1", "2", 0.001) == pytest.approx((0.125, 0.025))


@pytest.mark.parametrize("name", ["scr", "tpp"])
def test_results_are_complete_and_recomputed_from_their_details(
    name: str, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_sets(tmp_path, ("alpha", "gone"), monkeypatch, PAIRS)
    card = run(name, make_sae(), tiny_model, tiny_corpus, tmp_path, tasks="alpha,gone")
    assert card.result.failures == {}
    result = card.result.evaluators[name]
    assert len(result.metrics) == 21 and "lacks gone.jsonl" in result.details["missing"]["gone"]
    kind = {"scr": SpuriousCorrelationRemoval, "tpp": TargetedProbePerturbation}[name]
    again = {metric.name: metric for metric in kind.recomputed(result, Measured.of(card.result))}
    assert again == result.metrics
    monkeypatch.setattr("saebench.probing.activations.run_texts", None)  # nothing is computed again
    second = run(name, make_sae(), tiny_model, tiny_corpus, tmp_path, tasks="alpha,gone")
    assert second.result.evaluators[name].details == result.details


def test_what_cannot_be_measured_is_an_error_before_any_work(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(tmp_path, ("alpha", "gone"), monkeypatch)
    with pytest.raises(SaebenchError, match="the set alpha defines none"):
        run("scr", make_sae(), tiny_model, tiny_corpus, tmp_path, tasks="alpha")
    with pytest.raises(SaebenchError, match=r"no data folder|lacks gone.jsonl"):
        run("tpp", make_sae(), tiny_model, tiny_corpus, tmp_path, tasks="gone")

    class Plain:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    with pytest.raises(SaebenchError, match="needs weights"):
        saebench.evaluate(
            Plain(), model=tiny_model, corpus=tiny_corpus, evaluators=["tpp"], data_dir=tmp_path, progress=False,
            options={"tpp": {"tasks": "alpha"}}, hook=str(make_sae().info.hook_in),
        )  # fmt: skip
