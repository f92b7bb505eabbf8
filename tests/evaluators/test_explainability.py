"""The evaluator: planted latents, baselines, simulated losses, bad input."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import saebench
from saebench.definitions import definition_hash
from saebench.errors import SaebenchError
from saebench.evaluators.base import Setup
from saebench.evaluators.explainability import Explainability
from saebench.evaluators.shared import make_shared
from saebench.evaluators.splicing.explained_loss import explained_losses, replaced
from saebench.explaining.n2g.trie import Path, Trie
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.results import EvaluatorResult
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.conftest import HOOK
from tests.explaining.n2g.planted import TokensAsActivations, planted_rows, planted_sae

SMALL = {"window": 16, "build": 4, "held_out": 4, "least": 4, "latents": 6, "baseline_latents": 4, "bootstrap": 50}


def planted(model: LanguageModel, **options: Any) -> EvaluatorResult:
    corpus = make_corpus(planted_rows(60, 24, 0), model.tokenizer, name="planted", bos="row")
    cut: Any = TokensAsActivations(model)
    setup = Setup(planted_sae(), cut, corpus, make_shared(corpus, 200), 0, {"losses": False, "window": 16, **options})
    Explainability.check(setup)
    return Explainability(setup).compute()


@pytest.mark.parametrize("definition", ["n2g", "gao2024"])
def test_planted_latents_are_found_exactly(tiny_model: LanguageModel, definition: str) -> None:
    result = planted(tiny_model, definition=definition, only=[0, 1, 2])
    token, bigram = result.details["latents"]
    assert [(path["tokens"], path["at_start"], path["value"]) for path in token["trie"]] == [([10], False, 2.0)]
    assert [(path["tokens"], path["at_start"], path["value"]) for path in bigram["trie"]] == [([20, 21], False, 1.5)]
    for name in ("precision", "recall", "recall_unseen", "f1", "auc", "precision_by_mass", "recall_by_mass"):
        assert result.metrics[name].value == 1, name
        assert result.metrics[name].n == 2
    assert result.metrics["paths"].value == 1
    assert result.details["not_scored"]["asked_for"] == {"2": 0}
    assert [latent["latent"] for latent in result.details["latents"]] == [0, 1]


def test_a_unigram_overpredicts_a_bigram(tiny_model: LanguageModel) -> None:
    result = planted(tiny_model, only=[0, 1])
    token, bigram = result.details["baselines"]["unigram"]
    assert token["precision"] == 1 and token["recall"] == 1
    assert 0.2 < bigram["precision"] < 0.9 and bigram["recall"] == 1
    assert result.metrics["unigram_precision"].value == pytest.approx((1 + bigram["precision"]) / 2, abs=1e-4)
    low, high = bigram["precision_interval"]
    assert low < bigram["precision"] < high


def test_latents_are_sampled_and_dead_ones_counted_apart(tiny_model: LanguageModel) -> None:
    result = planted(tiny_model, latents=64)
    assert [each["latent"] for each in result.details["latents"]] != []
    assert 2 not in [each["latent"] for each in result.details["latents"]]
    assert result.metrics["dead_latents"].value == 0.25
    assert result.details["not_scored"]["dead"] == 1


def test_too_few_activations_are_reported_not_scored_as_0(tiny_model: LanguageModel) -> None:
    result = planted(tiny_model, least=10_000)
    assert result.details["latents"] == []
    assert result.metrics["rare_latents"].value == 0.75
    for name in ("precision", "recall", "f1", "unigram_f1"):
        assert result.metrics[name].value is None
        assert result.metrics[name].reason == "no latent fired often enough"


def test_examples_show_true_and_simulated_activations(tiny_model: LanguageModel) -> None:
    for latent in planted(tiny_model, only=[0, 1]).details["latents"]:
        assert len(latent["examples"]) == 3
        for example in latent["examples"]:
            assert example["activations"] == example["simulated"]
            assert example["activations"][example["peak"]] == latent["largest_activation"]
            assert len(example["tokens"]) == len(example["activations"])


def evaluate(sae: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus, **options: Any) -> EvaluatorResult:
    card = saebench.evaluate(
        sae, model=model, corpus=corpus, evaluators=["explainability"], progress=False,
        options={"explainability": {**SMALL, **options}},
    )  # fmt: skip
    assert card.result.failures == {}
    name = f"explain/{options.get('definition', 'n2g')}"
    assert card.result.definitions == {name: definition_hash("explain", name.split("/")[1])}
    return card.result.evaluators["explainability"]


def test_every_baseline_and_every_figure(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    result = evaluate(make_sae(), tiny_model, tiny_corpus, baselines="unigram,random,channels")
    for prefix in ("", "unigram_", "random_", "channels_"):
        for name in ("precision", "recall", "recall_unseen", "f1", "auc"):
            metric = result.metrics[prefix + name]
            if metric.value is None:  # on random tokens an n-gram may well not occur again
                assert name == "precision" and metric.n == 0 and metric.reason == "not defined for any of the latents"
                continue
            assert 0 <= metric.value <= 1
            assert metric.n_unit == "latents" and metric.n > 0
            assert metric.interval is None or metric.interval[0] <= metric.value <= metric.interval[1]
    assert result.metrics["recall"].interval is not None and result.metrics["unigram_recall"].interval is not None
    assert {name: len(rows) for name, rows in result.details["baselines"].items()} == {
        "unigram": 6, "random": 4, "channels": 4,
    }  # fmt: skip
    assert json.loads(json.dumps(result.details)) == result.details
    again = evaluate(make_sae(), tiny_model, tiny_corpus, baselines="unigram,random,channels")
    assert again.metrics == result.metrics
    other = saebench.evaluate(
        make_sae(), model=tiny_model, corpus=tiny_corpus, evaluators=["explainability"], progress=False, seed=1,
        options={"explainability": SMALL},
    ).result.evaluators["explainability"]  # fmt: skip
    drawn = [[each["latent"] for each in some.details["latents"]] for some in (result, other)]
    assert drawn[0] != drawn[1]


def test_the_loss_with_true_latents_is_the_spliced_loss(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    sae = make_sae()
    losses = explained_losses(
        tiny_model.cut(HOOK),
        sae,
        tiny_corpus,
        torch.arange(24),
        {0: Trie(), 5: Trie([Path((10,), False, 1.0)])},
        1,
        Progress(False),
    )
    card = saebench.evaluate(sae, model=tiny_model, corpus=tiny_corpus, evaluators=["downstream"], progress=False)
    for mine, name in (("clean", "ce_clean"), ("true", "ce_spliced")):
        assert losses.ratio(mine, "predictions").value == pytest.approx(card[f"downstream.{name}"], rel=1e-5)
    assert losses.total("simulated") != losses.total("zeroed") != losses.total("true")


def test_codes_with_simulated_latents(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    sae, tokens = make_sae(), tiny_corpus.tokens[:3]
    places = (~tiny_corpus.excluded[:3]).nonzero(as_tuple=True)
    code = sae.encode(tiny_model.cut(HOOK).prefix(tokens).inputs[places])
    token = int(tokens[1, 4])
    tries = {7: Trie([Path((token,), False, 2.5)]), 0: Trie()}
    zeroed, simulated = replaced(code, tries, tokens, places, 1)
    expected = code.to_dense()
    assert (expected[:, [0, 7]] > 0).any()
    expected[:, [0, 7]] = 0
    assert torch.equal(zeroed.to_dense(), expected)
    expected[:, 7] = 2.5 * (tokens[places] == token)
    assert torch.equal(simulated.to_dense(), expected)


def test_a_perfect_explanation_explains_all_of_the_loss(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel
) -> None:
    """At the embeddings a latent's activation depends on the token alone, so tries of single tokens say all."""
    hook = "blocks.0.hook_resid_pre"
    rows = torch.randint(3, 200, (40, 16), generator=torch.Generator().manual_seed(1))
    rows[:, 0] = 1
    corpus = make_corpus(rows, tiny_model.tokenizer, name="random tokens", bos="row")
    sae = make_sae(activation=TopK(4))
    sae = replace(sae, info=replace(sae.info, hook_in=hook))
    table = sae.encode(tiny_model.cut(hook).prefix(torch.arange(200).unsqueeze(1)).inputs[:, 0]).to_dense()
    tries = {
        latent: Trie(
            [Path((token,), False, float(table[token, latent])) for token in range(200) if table[token, latent] > 0]
        )
        for latent in range(0, 64, 2)
    }
    losses = explained_losses(tiny_model.cut(hook), sae, corpus, torch.arange(40), tries, 1, Progress(False))
    assert losses.total("simulated") == pytest.approx(losses.total("true"), rel=1e-5)
    assert abs(losses.total("zeroed") - losses.total("true")) > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 64}, "rows have 16 tokens"),
        ({"baselines": "bigram"}, "no explainability baseline 'bigram'"),
        ({"definition": "gao"}, "no definition 'gao'"),
        ({"wndow": 3}, "no number 'wndow'"),
        ({"saliency": 2.0}, "between 0 and 1"),
        ({"build": 1.5}, "must be of type int"),
        ({"only": [64]}, "beyond 0 to 63"),
        ({"only": []}, "list of latent numbers"),
        ({"losses": 1}, "true or false"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    make_sae: Callable[..., SparseAutoencoder],
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    options: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(SaebenchError, match=words):
        saebench.evaluate(
            make_sae(), model=tiny_model, corpus=tiny_corpus, evaluators=["explainability"], progress=False,
            options={"explainability": {**SMALL, **options}},
        )  # fmt: skip


def test_a_handful_of_rows_is_too_few(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    corpus = make_corpus(tiny_corpus.tokens[:3], tiny_model.tokenizer, name="short", bos="row")
    with pytest.raises(SaebenchError, match="more --tokens"):
        evaluate(make_sae(), tiny_model, corpus)


def test_a_changed_protocol_is_not_resumed(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "result.json"
    settings: dict[str, Any] = {
        "model": tiny_model, "corpus": tiny_corpus, "evaluators": ["explainability"], "progress": False, "out": out,
        "options": {"explainability": {**SMALL, "latents": 1, "losses": False}},
    }  # fmt: skip
    saebench.evaluate(make_sae(), **settings)
    assert saebench.evaluate(make_sae(), resume=True, **settings).result.complete
    data = json.loads(out.read_text())
    data["definitions"]["explain/n2g"] = "0" * 64
    out.write_text(json.dumps(data))
    with pytest.raises(SaebenchError, match=r"another explain/n2g\.toml"):
        saebench.evaluate(make_sae(), resume=True, **settings)
