"""Two processes give the losses of one, whether the latents or the batch are distributed, and write one file set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.training.config import TrainingConfig
from saebench.training.mesh import Mesh, join_mesh
from saebench.training.objectives import Weights, make_objective
from saebench.training.recipe import initial_decoder, initial_encoder
from saebench.training.run import train
from saebench.training.saving import AVERAGE
from saebench.training.sources import TensorSource
from tests.training.test_controls import smallest_cosine
from tests.training.test_trainer import D, config, losses, planted

SETTINGS: dict[str, Any] = {"n": 256, "k": 2, "tokens": 512 * 25, "dead_after_tokens": 600, "checkpoint_every": 10}
SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from saebench.training.mesh import join_mesh
from saebench.training.run import train
from saebench.training.sources import TensorSource
from tests.training.test_trainer import config, losses, planted
shards, resume, written, members = int(sys.argv[1]), sys.argv[2] == "resume", Path(sys.argv[3]), json.loads(sys.argv[4])
configs, folders = [config(**each) for each in members.values()], [Path(each) for each in members]
mesh = join_mesh(shards)
trainers = train(configs, TensorSource(planted(5_000)[0]), folders, resume=resume, mesh=mesh)
if mesh.writes:
    written.write_text(json.dumps([losses(each) for each in trainers]))
mesh.leave()
running = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
left = [name for name in running if "gloo" in name]
assert not left, f"threads that can abort the process while Python exits: {left}"
"""


def two_processes(members: dict[Path, dict[str, Any]], shards: int, resume: bool = False) -> list[list[float]]:
    """Train members together, with settings by folder, in two processes; their losses."""
    place = next(iter(members)).parent
    script, written = place / "worker.py", place / "losses.json"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [str(shards), "resume" if resume else "new", str(written)]
    command += [json.dumps({str(folder): settings for folder, settings in members.items()})]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[float]] = json.loads(written.read_text())
    return found


def environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("arch", "shards"),
    [
        ("topk", 2),
        ("topk", 1),
        ("batchtopk", 2),
        pytest.param("multitopk", 2, marks=pytest.mark.slow),
        pytest.param("batchtopk", 1, marks=pytest.mark.slow),
        pytest.param("jumprelu", 1, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(arch: str, shards: int, tmp_path: Path) -> None:
    settings = SETTINGS | {"arch": arch}
    (alone,) = train([config(**settings)], TensorSource(planted(5_000)[0]), [tmp_path / "alone"])
    (together,) = two_processes({tmp_path / "together": settings}, shards)
    assert together == pytest.approx(losses(alone), rel=1e-5)
    assert arch == "jumprelu" or any(row[3] > 0 for row in alone.history), "no latent was dead: AuxK was not tried"
    for place in ("", "average"):
        one, two = (checkpoints.load(tmp_path / name / place) for name in ("alone", "together"))
        torch.testing.assert_close(two.W_enc, one.W_enc, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(two.b_dec, one.b_dec, rtol=1e-3, atol=1e-4)
        assert (
            two.info.n_latents == one.info.n_latents and two.activation.describe().keys() == one.activation.describe().keys()
        )


@pytest.mark.parametrize("shards", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_train_controls_as_one(shards: int, tmp_path: Path) -> None:
    members = {freeze: SETTINGS | {"freeze": freeze} for freeze in ("decoder", "encoder")}
    members["soft-decoder"] = SETTINGS | {"freeze": "soft-decoder", "cone": 0.995, "lr": 0.01}
    folders = [tmp_path / f"alone-{freeze}" for freeze in members]
    alone = train([config(**each) for each in members.values()], TensorSource(planted(5_000)[0]), folders)
    together = two_processes({tmp_path / freeze: settings for freeze, settings in members.items()}, shards)
    for trainer, found in zip(alone, together, strict=True):
        assert found == pytest.approx(losses(trainer), rel=1e-5)
    start = initial_decoder(SETTINGS["n"], D, seed=0)
    for place in ("", AVERAGE):
        two = {freeze: checkpoints.load(tmp_path / freeze / place) for freeze in members}
        for freeze, sae in two.items():
            one = checkpoints.load(tmp_path / f"alone-{freeze}" / place)
            for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
                torch.testing.assert_close(getattr(sae, name), getattr(one, name), rtol=1e-3, atol=1e-4)
        assert torch.equal(two["decoder"].W_dec, start)
        torch.testing.assert_close(two["encoder"].W_enc, initial_encoder(start, SETTINGS["k"], seed=0).T, rtol=1e-6, atol=0)
        smallest = smallest_cosine(two["soft-decoder"].W_dec, start)
        assert smallest >= 0.995 - 1e-6 and (place or smallest <= 0.995 + 1e-6), smallest


def test_a_sharded_run_is_resumed_exactly(tmp_path: Path) -> None:
    whole = two_processes({tmp_path / "whole": SETTINGS}, 2)
    two_processes({tmp_path / "half": SETTINGS | {"tokens": 512 * 12}}, 2)
    for state in (tmp_path / "half").glob("state-*.pt"):  # as if it had been stopped on the way to 25 steps
        held = torch.load(state, weights_only=True)
        held["config"]["tokens"] = SETTINGS["tokens"]
        torch.save(held, state)
    assert two_processes({tmp_path / "half": SETTINGS}, 2, resume=True) == whole
    with pytest.raises(SaebenchError, match="another number of shards"):
        train([config(**SETTINGS)], TensorSource(planted(5_000)[0]), [tmp_path / "half"], resume=True)


def test_what_cannot_be_distributed_is_an_error() -> None:
    weights = Weights(torch.eye(4), torch.eye(4), torch.zeros(4))
    settings = TrainingConfig(arch="relu", n=4, k=2)
    with pytest.raises(SaebenchError, match="relu cannot be trained over 2 shards; these can: topk, multitopk, batchtopk"):
        make_objective(settings, weights, Mesh(shards=2))
    with pytest.raises(SaebenchError, match="torchrun"):
        join_mesh(2)
    with pytest.raises(SaebenchError, match="fewer shards"):
        Mesh(shards=8).latents(4)


def test_slices_of_the_latents_make_up_the_dictionary() -> None:
    parts = [Mesh(shards=3, shard=shard).latents(64) for shard in range(3)]
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(64))
