"""The evaluator on planted tasks, whose answers are features of the planted world, and on sets of classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.sparse_probing import SparseProbing
from saebench.lm import LanguageModel
from saebench.planted import PlantedWorld, plant
from saebench.planted.probing import write_tasks
from saebench.probing.class_texts import Unit, prepared_classes
from saebench.report.scorecard import Scorecard
from saebench.sae import SparseAutoencoder
from saebench.tasks.classes import read_class_set
from saebench.text.corpus import TokenCorpus
from tests.evaluators.class_sets import write_sets


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return plant()


@pytest.fixture(scope="module")
def folder(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planted")
    write_tasks(world, made, most=120)
    return made


def evaluate(world: PlantedWorld, folder: Path, damage: tuple[str, float], **options: object) -> Scorecard:
    given = {"protocol": "sae-probes", "tasks": "planted", "train": 40, "test": 20, **options}
    return saebench.evaluate(
        world.damaged(*damage), model=world.model, hook=world.hook, corpus=world.corpus(512, seed=1),
        evaluators=["sparse_probing"], data_dir=folder, options={"sparse_probing": given},
    )  # fmt: skip


def test_the_oracle_needs_one_latent_and_a_dictionary_without_the_features_more(world: PlantedWorld, folder: Path) -> None:
    tasks = ",".join(path.stem for path in sorted((folder / "tasks").glob("planted_[bt]*.toml"))[:3])
    oracle, missing = (evaluate(world, folder, each, tasks=tasks) for each in (("missing", 0.0), ("missing", 0.75)))
    assert oracle.metric("sparse_probing.sae_top_1_test_accuracy").value > 0.95  # type: ignore[operator]
    best = [card.metric("sparse_probing.sae_top_1_test_auc").value for card in (oracle, missing)]
    assert best[0] > best[1] + 0.1  # type: ignore[operator]
    channels = [card.metric("sparse_probing.llm_top_1_test_accuracy").value for card in (oracle, missing)]
    assert channels[0] == channels[1]  # they do not depend on the autoencoder
    found = oracle.result.evaluators["sparse_probing"]
    assert {m.name: m for m in SparseProbing.recomputed(found, Measured.of(oracle.result))} == found.metrics
    assert set(oracle.result.definitions) >= {"probes/sae-probes"}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"protocol": "mine"}, "no protocol 'mine'"), ({"train": 5}, "whole number of texts"), ({"ks": 3}, "no option 'ks'"),
     ({"tasks": "nowhere"}, "no probing task")],
)  # fmt: skip
def test_wrong_options_are_refused(world: PlantedWorld, folder: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        evaluate(world, folder, ("missing", 0.0), **options)


def slow_accuracy(sae: SparseAutoencoder, model: LanguageModel, unit: Unit, name: str, k: int, bos: bool) -> float:
    """SAEBench's steps on one class, written densely: every text by itself, its mean code, the best k, scikit-learn."""
    cut = model.cut("blocks.1.hook_resid_post")
    front = [model.tokenizer.bos_token_id] if bos else []
    means = []
    for text in unit.texts:
        ids = front + model.tokenizer(text, add_special_tokens=False)["input_ids"]
        code = sae.encode(cut.prefix(torch.tensor([ids])).inputs[0, len(front) :].float()).to_dense()
        means.append(code.double().mean(dim=0))
    values = torch.stack(means).numpy()
    train, test = unit.problems[name].train, unit.problems[name].test
    x, y = values[train.rows.numpy()], train.labels.numpy()
    difference = np.abs(x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0))
    best = np.argsort(-difference, kind="stable")[:k]
    fitted = LogisticRegression(max_iter=1000).fit(x[:, best], y)
    return float((fitted.predict(values[test.rows.numpy()][:, best]) == test.labels.numpy()).mean())


def test_a_set_of_classes_is_probed_as_saebench_does(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_sets(tmp_path, ("some", "gone"), monkeypatch)
    sae = make_sae()
    card = saebench.evaluate(
        sae, model=tiny_model, corpus=tiny_corpus, evaluators=["sparse_probing"], data_dir=tmp_path, progress=False,
        options={"sparse_probing": {"tasks": "some,gone", "train": 60, "test": 40}},
    )  # fmt: skip
    found = card.result.evaluators["sparse_probing"]
    unit = prepared_classes(read_class_set("some"), 120, 80, 0, tmp_path)
    for problem in unit.problems.values():  # equally many texts of each other class
        of_class = (problem.train.rows // 60).tolist()
        assert sorted(of_class.count(each) for each in range(3)) == [30, 30, 60]
        assert problem.train.labels.sum() == 60
    bos = found.settings["bos"]
    for k in (1, 5):
        slow = [slow_accuracy(sae, tiny_model, unit, name, k, bos) for name in unit.problems]
        fast = [found.details["tasks"]["some"]["sae"][name][str(k)]["accuracy"] for name in unit.problems]
        assert fast == pytest.approx(slow, abs=1 / 80 + 1e-9)  # values in float32 may decide one test text
        assert found.metrics[f"sae_top_{k}_test_accuracy"].value == pytest.approx(sum(fast) / 3)
    assert found.metrics["sae_top_1_test_accuracy"].n_unit == "of 2 tasks"
    assert set(found.details["missing"]) == {"gone"}
    assert set(card.result.definitions) >= {"probes/saebench", "tasks/classes/some"}
    assert {m.name: m for m in SparseProbing.recomputed(found, Measured.of(card.result))} == found.metrics
