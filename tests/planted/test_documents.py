"""Documents of the planted world: their attributes are the true ones, and concept erasure sees what an autoencoder lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import saebench
from saebench.errors import SaebenchError
from saebench.planted import PlantedWorld
from saebench.planted.documents import CLASSES, PER_CELL, TASKS, write_documents
from saebench.planted.features import FIRST_WORD
from saebench.tasks import find_tasks
from saebench.tasks.classes import find_class_sets


@pytest.fixture(scope="module")
def folder(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("documents")
    write_documents(world, made)
    return made


def test_attributes_are_true(world: PlantedWorld, folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "planted" / "documents.jsonl").read_text().splitlines()]
    parents = world.features.of_kind("parent")
    assert len(lines) == 2 * len(parents) * PER_CELL
    own, every = [], {word for parent in parents for word in world.features.patterns[parent]}
    for line in lines:
        words = [int(word[1:]) for word in line["text"].split()]
        assert words[0] == FIRST_WORD + int(line["topic"]) and len(words) == 13
        mine = set(world.features.patterns[int(line["parent"].removeprefix("parent_"))])
        own.append(sum(word in mine for word in words[1:]) / 12)
        assert all(word in mine or word not in every for word in words[1:])
    assert sum(own) / len(own) == pytest.approx(0.5, abs=0.02)


def test_own_sets_of_classes_are_found_in_a_data_folder(folder: Path, tmp_path: Path) -> None:
    (found,) = find_class_sets(CLASSES, folder)
    assert len(found.wanted) == 8 and found.pairs[0] == found.wanted[:2] and len(find_tasks(TASKS, folder)) == 4
    with pytest.raises(SaebenchError, match="no set of classes 'planted_documents'"):
        find_class_sets(CLASSES)
    (tmp_path / "tasks" / "classes").mkdir(parents=True)
    (tmp_path / "tasks" / "classes" / "ag_news.toml").write_text("")
    with pytest.raises(SaebenchError, match="has the name of a set of saebench"):
        find_class_sets("ag_news", tmp_path)


def test_targeted_perturbation_needs_latents_of_the_classes_alone(
    world: PlantedWorld, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path))
    saes = [world.oracle(), world.damaged("missing", 0.75), world.damaged("random", 0.75)]
    cards = saebench.evaluate(
        saes, model=world.model, hook=world.hook, corpus=world.corpus(512, seed=1), evaluators=["tpp"], data_dir=folder,
        options={"tpp": {"tasks": CLASSES, "train": 120, "test": 80}}, progress=False,
    )  # fmt: skip
    oracle, missing, random = (card.metric("tpp.tpp_threshold_5_total_metric").value for card in cards)
    assert oracle > 0.25 > 0.15 > max(missing, random)
