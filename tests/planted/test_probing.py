"""Probing tasks of the planted world: labels are the true ones, and probe loss sees what an autoencoder lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import saebench
from saebench.errors import SaebenchError
from saebench.planted import PlantedWorld
from saebench.planted.probing import write_tasks
from saebench.tasks import find_tasks
from tests.planted.test_world import active_by_hand


@pytest.fixture(scope="module")
def folder(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planted")
    write_tasks(world, made)
    return made


def test_labels_are_true_and_half_of_the_negatives_are_hard(world: PlantedWorld, folder: Path) -> None:
    files = sorted((folder / "planted").glob("*.jsonl"))
    assert {path.stem.split("_")[1] for path in files} == {"parent", "token", "bigram", "topic"}
    for path in files:
        kind, feature = path.stem.split("_")[1], int(path.stem.split("_")[2])
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["label"] for line in lines].count(1) == 80 == len(lines) / 2
        ends = {label: [line["text"].split()[-1] for line in lines if line["label"] == label] for label in (0, 1)}
        for line in lines:
            row = [1, *(int(word[1:]) for word in line["text"].split())]
            assert (feature in active_by_hand(world.features, row, len(row) - 1)) == bool(line["label"])
        if kind == "bigram":
            assert ends[0].count(ends[1][0]) >= 40


def test_probe_loss_sees_missing_features(world: PlantedWorld, folder: Path) -> None:
    def loss(share: float, name: str) -> float | None:
        card = saebench.evaluate(
            world.damaged("missing", share), model=world.model, hook=world.hook, corpus=world.corpus(512, seed=1),
            evaluators=["probe_loss"], data_dir=folder, options={"probe_loss": {"tasks": "planted"}},
        )  # fmt: skip
        return card.metric(f"probe_loss.{name}").value

    assert loss(0, "probe_loss_held_out") < 0.05 < 0.2 < loss(0.75, "probe_loss_held_out")


def test_a_name_of_the_package_is_refused_and_own_tasks_are_found_in_a_data_folder(folder: Path, tmp_path: Path) -> None:
    assert len(find_tasks("planted", folder)) == len(list((folder / "tasks").iterdir()))
    with pytest.raises(SaebenchError, match="no probing task or set of tasks 'planted'"):
        find_tasks("planted")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sciq.toml").write_text((folder / "tasks").glob("*.toml").__next__().read_text())
    with pytest.raises(SaebenchError, match="has the name of a task of saebench"):
        find_tasks("sciq", tmp_path)
