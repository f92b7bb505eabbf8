"""Folders that hold many checkpoints."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from saebench import checkpoints
from saebench.checkpoints.collection import Collection, _signed, expand
from saebench.cli import app
from saebench.errors import SaebenchError
from tests.conftest import FIXTURES

TOPK = FIXTURES / "dictionary_learning/AutoEncoderTopK"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished trainers of dictionary_learning (one with a step's weights), sparsify's hookpoints, a bare file."""
    folder = tmp_path / "runs"
    for trainer in ("trainer_0", "trainer_1"):
        shutil.copytree(TOPK, folder / trainer, ignore=shutil.ignore_patterns("numbers*"))
    (folder / "trainer_0/checkpoints").mkdir()
    shutil.copy(TOPK / "ae.pt", folder / "trainer_0/checkpoints/ae_1000.pt")
    shutil.copytree(
        FIXTURES / "sparsify/topk/layers.3", folder / "sparse/layers.3", ignore=shutil.ignore_patterns("numbers*")
    )
    shutil.copy(FIXTURES / "dictionary_learning/AutoEncoder/ae.pt", folder / "from-a-friend.pt")
    (folder / "notes.txt").write_text("not a checkpoint")
    return folder


def test_every_checkpoint_is_found_once(runs: Path) -> None:
    found = Collection.open(runs)
    assert found is not None
    assert sorted(Path(member).relative_to(runs).as_posix() for member in found.members) == [
        "from-a-friend.pt", "sparse/layers.3", "trainer_0", "trainer_0/checkpoints/ae_1000.pt", "trainer_1",
    ]  # fmt: skip


def test_the_step_of_a_training_has_the_configuration_one_folder_up(runs: Path) -> None:
    sae = checkpoints.load(runs / "trainer_0/checkpoints/ae_1000.pt")
    numbers = load_file(TOPK / "numbers.safetensors")
    torch.testing.assert_close(sae.encode(numbers["x"]).to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    assert (sae.info.format, sae.info.architecture, sae.info.hook_in) == (
        "dictionary_learning", "topk", checkpoints.inspect(TOPK).hook_in,
    )  # fmt: skip
    finished, step = checkpoints.inspect(runs / "trainer_0"), checkpoints.inspect(runs / "trainer_0/ae.pt")
    assert finished.architecture == step.architecture == "topk"


def test_inspect_prints_a_table(runs: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(runs)])
    assert done.exit_code == 0 and "Architect" in done.output
    found = Collection.open(runs)
    assert found is not None
    console = Console(width=200, file=io.StringIO())
    with console.capture() as shown:
        console.print(found.table())
    lines = {line.split()[0]: line for line in shown.get().splitlines() if line.strip()}
    assert "dictionary_learning" in lines["trainer_0/checkpoints/ae_1000.pt"] and "topk" in lines["trainer_1"]
    assert "sparsify" in lines["sparse/layers.3"] and "state_dict" in lines["from-a-friend.pt"]


def test_arguments_are_expanded(runs: Path) -> None:
    assert expand([str(runs / "trainer_*")], inside=False) == [str(runs / "trainer_0"), str(runs / "trainer_1")]
    assert len(expand([str(runs)], inside=True)) == 5
    assert expand([str(runs / "trainer_1")], inside=True) == [str(runs / "trainer_1")]
    with pytest.raises(SaebenchError, match="holds 5 checkpoints: evaluate all of them with --all"):
        expand([str(runs)], inside=False)
    with pytest.raises(SaebenchError, match="No file or folder matches"):
        expand([str(runs / "nothing*")], inside=False)
    (runs / "empty").mkdir()
    with pytest.raises(SaebenchError, match="no checkpoint within"):
        expand([str(runs / "empty")], inside=True)


def test_folders_of_a_repository_are_known_by_names_alone() -> None:
    names = [
        "README.md",
        "blocks.8/cfg.json",
        "blocks.8/sae_weights.safetensors",
        "a/b/ae.pt",
        "a/b/config.json",
        "c/cfg.json",
    ]
    assert _signed(names) == {"blocks.8", "a/b"}
