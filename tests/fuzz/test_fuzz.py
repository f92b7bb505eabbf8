"""Two hundred mutated inputs of every reader; ``make fuzz`` tries 20,000."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.fuzz.reader import Trial, limits, timed
from tests.fuzz.readers import READERS

SEEDS = 200


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_right_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    trial = Trial(READERS[name], tmp_path)
    with limits():
        found = [timed(trial, seed) for seed in range(SEEDS)]
    faults = [f"--reader {name} --seed {each.seed}: {each.words}" for each in found if each.kind == "fault"]
    assert faults == []
    kinds = {each.kind for each in found}
    assert kinds == {"read", "refused"} or name == "folder_of_checkpoints", (
        "mutations that are all read, or all refused, test little"
    )


def test_every_checkpoint_format_is_fuzzed() -> None:
    ours = {each.name for each in entry_points(group="saebench.checkpoints") if each.value.startswith("saebench.")}
    assert ours - READERS.keys() == set()


def test_a_seed_gives_the_same_outcome_again(tmp_path: Path) -> None:
    trial = Trial(READERS["saelens"], tmp_path)
    first = [trial.run(seed) for seed in range(20)]
    assert [trial.run(seed) for seed in range(20)] == first
