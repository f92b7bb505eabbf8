"""The evaluator end to end on a tiny model, and on activations with a planted feature."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import saebench
from saebench import definitions
from saebench.errors import SaebenchError
from saebench.evaluators import over_tasks, probe_loss
from saebench.evaluators.base import Measured
from saebench.evaluators.probe_loss import ProbeLoss
from saebench.lm import LanguageModel
from saebench.probing.activations import TaskActivations, run_texts
from saebench.probing.protocol import TextLimits, read_protocol
from saebench.probing.summary import summarise
from saebench.results import canonical_hash
from saebench.sae import SparseAutoencoder
from saebench.tasks import sources
from saebench.text.corpus import TokenCorpus

Make = Callable[..., SparseAutoencoder]
TASK = """
title = "t"
sets = ["small"]
licence = "l"
citation = "c"
local = ["{name}.jsonl"]
[rows]
text = "{{text}}"
positive = ["1"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks, the data of two; and a cache of one's own."""
    original = definitions.definition_folder
    (tmp_path / "tasks").mkdir()
    for name in ("alpha", "beta", "gone"):
        (tmp_path / "tasks" / f"{name}.toml").write_text(TASK.format(name=name))
    for number, name in enumerate(("alpha", "beta")):
        draw = random.Random(number)
        rows = [
            {
                "text": f"w{draw.randint(3, 199)} w{draw.randint(3, 199)} w{draw.randint(3, 150) + 40 * (i % 2)}",
                "label": i % 2,
            }
            for i in range(160)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def folder_of(kind: str) -> Path:
        return tmp_path / "tasks" if kind == "tasks" else original(kind)

    monkeypatch.setattr(definitions, "definition_folder", folder_of)
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(saes: Any, model: LanguageModel, corpus: TokenCorpus, folder: Path, tasks: str = "small", **more: Any) -> Any:
    options = {"probe_loss": {"tasks": tasks}}
    return saebench.evaluate(
        saes, model=model, corpus=corpus, evaluators=["probe_loss"], options=options, data_dir=folder, progress=False, **more
    )


def test_missing_tasks_are_listed_and_the_mean_says_so(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    card = run(make_sae(), tiny_model, tiny_corpus, folder)
    result = card.result.evaluators["probe_loss"]
    assert set(result.details["tasks"]) == {"alpha", "beta"}
    assert "lacks gone.jsonl" in result.details["missing"]["gone"]
    for metric in result.metrics.values():
        if metric.name != "probe_loss_solvable":
            assert metric.n == 2 and metric.n_unit == "of 3 tasks", metric.name
    assert "over 2 of 3 tasks" in card.metric("probe_loss.probe_loss").description
    again = {metric.name: metric for metric in ProbeLoss.recomputed(result, Measured.of(card.result))}
    assert again == result.metrics
    assert set(card.result.definitions) == {f"tasks/{each}" for each in ("alpha", "beta", "gone")} | {
        "probes/gao2024", "probes/k-sparse", "probes/dense-baseline",
    }  # fmt: skip


def test_means_are_those_of_the_tasks(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    card = run(make_sae(), tiny_model, tiny_corpus, folder, "alpha,beta")
    tasks = list(card.result.evaluators["probe_loss"].details["tasks"].values())
    for name, get in {
        "probe_loss": lambda each: each["best_latent"]["train_loss"],
        "probe_loss_held_out": lambda each: each["best_latent"]["held_out"]["loss"],
        "channels_loss": lambda each: each["baselines"]["channels"]["train_loss"],
        "logistic_loss_held_out": lambda each: each["baselines"]["logistic"]["loss"],
        "k_sparse_accuracy_5": lambda each: each["k_sparse"]["5"]["accuracy"],
    }.items():
        assert card[f"probe_loss.{name}"] == pytest.approx(sum(map(get, tasks)) / 2), name
    held_out = card.metric("probe_loss.probe_loss_held_out")
    errors = [each["best_latent"]["held_out"]["standard_error"] for each in tasks]
    assert held_out.standard_error == pytest.approx(sum(each**2 for each in errors) ** 0.5 / 2)
    assert held_out.n_unit == "tasks"
    for each in tasks:
        assert each["best_latent"]["float32_deviation"] < 1e-4 and each["best_latent"]["not_converged"] == 0
        low, high = each["best_latent"]["held_out"]["interval"]
        assert low <= each["best_latent"]["held_out"]["loss"] <= high


def test_a_second_run_computes_nothing_and_says_the_same(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(make_sae(), tiny_model, tiny_corpus, folder)
    kept = sorted(path.name for path in (folder / "cache").rglob("*") if path.is_file())
    assert len(kept) == 2 + 3 * 2  # activations; latents, baselines of the model, of its width

    def fails(*arguments: Any) -> Any:
        raise AssertionError("computed again")

    for name in ("best_probe", "k_sparse", "dense_baselines", "random_baseline"):
        monkeypatch.setattr(probe_loss, name, fails)
    monkeypatch.setattr("saebench.probing.activations.run_texts", fails)
    second = run(make_sae(), tiny_model, tiny_corpus, folder)
    assert second.result.evaluators["probe_loss"].details == first.result.evaluators["probe_loss"].details


def test_tasks_are_looked_up_once_for_all_autoencoders(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    genuine = over_tasks.find_tasks

    def counted(wanted: str, data_dir: Path | None = None) -> Any:
        asked.append(wanted)
        return genuine(wanted, data_dir)

    monkeypatch.setattr(over_tasks, "find_tasks", counted)
    cards = run([make_sae(), make_sae(seed=1)], tiny_model, tiny_corpus, folder)
    assert len(cards) == 2 and asked == ["small"]


def test_the_random_baseline_has_the_autoencoders_width_and_the_others_are_shared(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [run(make_sae(n=n), tiny_model, tiny_corpus, folder) for n in (64, 96)]
    tasks = [each.result.evaluators["probe_loss"].details["tasks"]["alpha"]["baselines"] for each in found]
    assert [each["random"]["directions"] for each in tasks] == [64, 96]
    for name in ("channels", "pca", "logistic"):
        assert tasks[0][name] == tasks[1][name]


def test_interrupted_runs_resume_where_they_ended(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    genuine = probe_loss.best_probe

    def stops(*arguments: Any) -> Any:
        calls.append("best")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return genuine(*arguments)

    monkeypatch.setattr(probe_loss, "best_probe", stops)
    with pytest.raises(KeyboardInterrupt):
        run(make_sae(), tiny_model, tiny_corpus, folder)
    run(make_sae(), tiny_model, tiny_corpus, folder)
    assert len(calls) == 3  # one task, the interruption, and only the other task


def test_activations_are_shared_and_changed_weights_are_not_mistaken(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    sae = make_sae()
    changed = replace(sae, W_enc=sae.W_enc.roll(1, dims=0))
    cards = run([sae, changed], tiny_model, tiny_corpus, folder, "alpha")
    kept = [path for path in (folder / "cache" / "probing" / "activations").iterdir()]
    assert len(kept) == 1
    losses = [card["probe_loss.probe_loss"] for card in cards]
    assert losses[0] != losses[1]
    assert cards[0]["probe_loss.channels_loss"] == cards[1]["probe_loss.channels_loss"]


def test_other_objects_are_probed_on_what_they_hand_on(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    class Channels:
        """Latents are the channels, rectified."""

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    card = run(Channels(), tiny_model, tiny_corpus, folder, "alpha", hook=str(make_sae().info.hook_in))
    assert "no pre-activations" in card.result.evaluators["probe_loss"].settings["values"]
    assert 0 <= card["probe_loss.probe_loss"] < 0.694


def test_invalid_options_and_missing_data_are_errors_before_any_work(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    with pytest.raises(SaebenchError, match="no probing task or set"):
        run(make_sae(), tiny_model, tiny_corpus, folder, "alhpa")
    with pytest.raises(SaebenchError, match="There is no data folder"):
        run(make_sae(), tiny_model, tiny_corpus, folder / "nowhere")
    with pytest.raises(SaebenchError, match="None of the 1 requested probing tasks"):
        run(make_sae(), tiny_model, tiny_corpus, folder, "gone")


def planted(labels: torch.Tensor) -> TaskActivations:
    """Noise of width 32 with the label in its first channel."""
    rows = torch.randn(labels.numel(), 32, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = labels * 2.0 - 1
    sizes = {"train": 240, "validation": 60, "test": 100}
    return TaskActivations(rows, torch.arange(400), labels, torch.arange(400), sizes, 0, "planted", cached=False)


def test_a_planted_feature_is_found_and_its_removal_seen(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.cat([torch.arange(size) >= size // 2 for size in (240, 60, 100)]).long()
    monkeypatch.setattr(probe_loss, "task_activations", lambda *arguments: planted(labels))
    sae = make_sae()
    encoder = sae.W_enc.clone()
    encoder[0] = 0  # no latent reads the planted channel
    without = replace(sae, W_enc=encoder)
    encoder = encoder.clone()
    encoder[:, 17] = torch.eye(32)[0]
    with_it = replace(sae, W_enc=encoder)
    found, lost = (run(each, tiny_model, tiny_corpus, folder, "alpha") for each in (with_it, without))
    best = found.result.evaluators["probe_loss"].details["tasks"]["alpha"]["best_latent"]
    assert found["probe_loss.probe_loss"] == 0 and best["index"] == 17 and best["separable"]
    assert found["probe_loss.probe_accuracy"] == 1 and found["probe_loss.probe_auc"] == 1
    assert found["probe_loss.probe_loss_held_out"] < 0.01
    assert lost["probe_loss.probe_loss"] > 0.6 and lost["probe_loss.probe_accuracy"] < 0.65
    assert found["probe_loss.channels_loss"] == 0 and found["probe_loss.win_rate"] == 0.5
    assert lost["probe_loss.win_rate"] == 0


def test_last_tokens_are_those_of_each_text_alone(tiny_model: LanguageModel, make_sae: Make) -> None:
    cut = tiny_model.cut("blocks.1.hook_resid_post")
    texts = ["w5 w9", "w7 w8 w11 w12 w100 w30 w3 w44", "w77"]
    done: list[float] = []
    found = run_texts(cut, texts, TextLimits(most_tokens=6, drop="start"), False, True, done.append)
    assert int(found["truncated"]) == 1 and len(done) == 3
    for index, text in enumerate(texts):
        ids = tiny_model.tokenizer(text, add_special_tokens=False)["input_ids"][-6:]
        alone = cut.prefix(torch.tensor([[tiny_model.tokenizer.bos_token_id, *ids]])).inputs[0, -1]
        torch.testing.assert_close(found["rows"][index], alone, atol=1e-5, rtol=1e-4)
    every = run_texts(cut, texts, TextLimits(most_tokens=6, drop="end"), True, True, done.append)
    for index, text in enumerate(texts):
        ids = tiny_model.tokenizer(text, add_special_tokens=False)["input_ids"][:6]
        alone = cut.prefix(torch.tensor([[tiny_model.tokenizer.bos_token_id, *ids]])).inputs[0, 1:]
        torch.testing.assert_close(every["rows"][every["owner"] == index], alone, atol=1e-5, rtol=1e-4)


def test_the_path_of_the_data_is_not_part_of_the_result(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make, folder: Path
) -> None:
    text = run(make_sae(), tiny_model, tiny_corpus, folder, "alpha").result.model_dump_json()
    assert str(folder) not in text and canonical_hash(json.loads(text))


def test_unsolvable_tasks_are_left_out_of_one_mean() -> None:
    def task(loss: float, logistic: float, error: float | None) -> dict[str, Any]:
        held = {"loss": loss, "standard_error": 0.05, "accuracy": 0.5, "auc": 0.5}
        return {
            "best_latent": {"train_loss": loss, "held_out": held},
            "k_sparse": {str(k): {"accuracy": 0.5, "auc": 0.5} for k in read_protocol().k_sparse.probe.k},
            "baselines": {
                **{name: {"train_loss": 0.7, "held_out": held} for name in ("channels", "pca", "random")},
                "logistic": held | {"loss": logistic, "standard_error": error},
            },
        }

    tasks = {"solved": task(0.3, 0.2, 0.05), "near": task(0.6, 0.65, 0.05), "coin": task(0.9, 0.7, None)}
    metrics = {metric.name: metric for metric in summarise(tasks, 3, read_protocol())}
    assert metrics["probe_loss_solvable"].value == pytest.approx(0.3) and metrics["probe_loss_solvable"].n == 1
    assert metrics["probe_loss_held_out"].value == pytest.approx(0.6)
    none = {metric.name: metric for metric in summarise({"coin": tasks["coin"]}, 1, read_protocol())}
    assert none["probe_loss_solvable"].value is None and "solve none" in (none["probe_loss_solvable"].reason or "")
