"""The evaluator on planted tasks, whose answers are features of the planted world."""

from __future__ import annotations

from pathlib import Path

import pytest

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.sparse_probing import SparseProbing
from saebench.planted import PlantedWorld, plant
from saebench.planted.probing import write_tasks
from saebench.report.scorecard import Scorecard


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
