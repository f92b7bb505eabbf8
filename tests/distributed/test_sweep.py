"""Sweeps on many workers: the weights of one process, byte for byte, whatever happens to the workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saebench.cli import app
from saebench.distributed.driver import MOST_DEATHS
from saebench.errors import SaebenchError
from saebench.training.sources import StoredSource
from saebench.training.trainer import Trainer
from tests.conftest import FIXTURES, HOOK
from tests.distributed.helpers import InlinePool, files_in, pools_here

MEMBERS = """
context = 16
n = 64
tokens = 1024
batch = 64
scaling = "none"
checkpoint_every = 5
[[member]]
name = "a"
k = 4
[[member]]
name = "b"
arch = "batchtopk"
k = 8
[[member]]
name = "frozen"
k = 4
freeze = "decoder"
[[member]]
name = "other-seed"
k = 4
seed = 1
"""
NAMES = ["a", "b", "frozen", "other-seed"]
Sweep = Callable[..., Any]
Pools = Callable[..., list[InlinePool]]


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    """``pools_here``, without its first argument."""
    return partial(pools_here, monkeypatch)


@pytest.fixture
def sweep(tmp_path: Path, text: Path) -> Sweep:
    """Runs the command into a folder below ``tmp_path``; all share a cache."""
    given = {"corpus": str(text), "model": str(FIXTURES / "saelens_evals" / "model"), "hook": HOOK}
    (tmp_path / "sweep.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in given.items()) + MEMBERS)

    def run(out: str, *more: str, cache: bool = True) -> Any:
        where = ["--cache", str(tmp_path / "cache")] if cache else []
        return CliRunner().invoke(app, ["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / out), *where, *more])

    return run


def weights(folder: Path) -> dict[str, bytes]:
    """Of the members and of their averages."""
    return {name: content for name, content in files_in(folder).items() if name.endswith(".safetensors")}


@pytest.fixture
def expected(sweep: Sweep, tmp_path: Path) -> dict[str, bytes]:
    """Of a single process, without a cache."""
    done = sweep("single", cache=False)
    assert done.exit_code == 0, done.output
    found = weights(tmp_path / "single")
    assert len(found) == 2 * len(NAMES)
    return found


def test_weights_are_those_of_one_process_for_any_number_of_workers(
    sweep: Sweep, pools: Pools, expected: dict[str, bytes], tmp_path: Path
) -> None:
    made = pools()
    for count, more in ((1, []), (2, []), (2, ["--together", "2"])):
        done = sweep("out", "--on", "local", "--workers", str(count), *more)
        assert done.exit_code == 0, done.output
        assert weights(tmp_path / "out") == expected
        assert list(json.loads((tmp_path / "out/manifest.json").read_text())["members"]) == NAMES
        assert (tmp_path / "out/training.html").is_file()
        shutil.rmtree(tmp_path / "out")
    assert [len(pool.workers) for pool in made] == [1, 2, 2]
    assert sorted(unit.saes for unit in made[1].log) == [(0,), (1,), (2,), (3,)]
    assert sorted(unit.saes for unit in made[2].log) == [(0, 1), (2,), (3,)]  # the last one has another order of the data


def test_a_member_whose_worker_dies_in_the_middle_continues_elsewhere(
    sweep: Sweep, pools: Pools, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After seven steps, of which five are saved."""
    pools(dies=lambda unit, number: number == 1)
    steps: list[int] = []
    actual = Trainer.train_step

    def counted(trainer: Trainer, batch: Any) -> None:
        steps.append(trainer.step)
        actual(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", counted)
    real = InlinePool.events

    def halfway(pool: InlinePool) -> Any:
        if not pool.log:  # what a worker leaves behind that is killed: the state after its last checkpoint
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "train_step", lambda trainer, batch: stop(trainer, batch))
                with pytest.raises(KeyboardInterrupt):
                    pool.workers[0].run(pool.given[-1][0])
        return real(pool)

    def stop(trainer: Trainer, batch: Any) -> None:
        if trainer.step == 7:
            raise KeyboardInterrupt
        counted(trainer, batch)

    monkeypatch.setattr(InlinePool, "events", halfway)
    done = sweep("out", "--on", "local", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert weights(tmp_path / "out") == expected
    assert len(steps) == 4 * 16 + 2  # two steps after the checkpoint are repeated


def test_a_member_that_fails_is_left_out_and_resuming_trains_it_alone(
    sweep: Sweep, pools: Pools, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools()
    actual = Trainer.train_step

    def failing(trainer: Trainer, batch: Any) -> None:
        if trainer.config.arch == "batchtopk" and trainer.step == 3:
            raise SaebenchError("Batch 3: the loss is NaN or infinite; the state before it is saved.")
        actual(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", failing)
    done = sweep("out", "--on", "local", "--workers", "2", "--together", "3")
    assert done.exit_code == 1
    words = "1 of 4 members could not be trained: b: its training fails: Batch 3: the loss is NaN or infinite;"
    assert words in " ".join(done.output.split())
    assert list(json.loads((tmp_path / "out/manifest.json").read_text())["members"]) == ["a", "frozen", "other-seed"]
    monkeypatch.setattr(Trainer, "train_step", actual)
    again = pools()
    assert sweep("out", "--on", "local", "--resume").exit_code == 0
    assert [unit.saes for unit in again[0].log] == [(1,)]
    assert weights(tmp_path / "out") == expected


def test_a_member_that_ends_workers_is_left_out(
    sweep: Sweep, pools: Pools, expected: dict[str, bytes], tmp_path: Path
) -> None:
    pools(dies=lambda unit, number: 0 in unit.saes)
    done = sweep("out", "--on", "local", "--workers", "2")
    assert done.exit_code == 1
    assert f"a: it ended {MOST_DEATHS} workers (killed)." in " ".join(done.output.split())
    assert weights(tmp_path / "out") == {name: each for name, each in expected.items() if not name.startswith("a/")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "add --on local or --on ray"),
        (["--on", "slurm"], "not on 'slurm'"),
        (["--on", "local", "--shards", "2"], "use it without --on"),
        (["--on", "local"], "give its folder with --cache"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_model_is_loaded(
    sweep: Sweep, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saebench.training.sources.LanguageModel", None)
    found = sweep("out", *arguments, cache=False)
    assert isinstance(found.exception, SaebenchError) and words in str(found.exception)


def test_a_sweep_that_does_not_fit_is_refused_before_the_model_is_loaded(
    sweep: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first two members, one ranks all entries of a batch together."""
    monkeypatch.setattr("saebench.training.sources.LanguageModel", None)
    state, batch = 4 * 5 * 2 * 64 * 32, 64 * (4 * 32 + 88 * 64)
    monkeypatch.setattr("saebench.distributed.memory.free_memory", lambda device: int(2 * 1.25 * (batch + 1.9 * state)))
    found = sweep("out", "--on", "local", "--workers", "2", "--together", "2")
    words = (
        "A worker needs (model 0.00 + batch 0.00 + 2 x SAE 0.00) x 1.25 = 0.00 GiB, but has 0.00: use fewer workers on each "
        "machine, a smaller batch, fewer members together, or larger devices."
    )
    assert isinstance(found.exception, SaebenchError) and str(found.exception) == words
    found = sweep("out", "--on", "local", "--workers", "2")  # one alone would fit
    assert not isinstance(found.exception, SaebenchError)


def test_a_folder_of_another_run_is_refused_before_the_model_is_loaded(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saebench.training.sources.LanguageModel", None)
    (tmp_path / "out/b").mkdir(parents=True)
    (tmp_path / "out/b/state.pt").write_bytes(b"")
    found = sweep("out", "--on", "local")
    assert isinstance(found.exception, SaebenchError) and "holds a training run already" in str(found.exception)


def test_a_folder_without_activations_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match="There is no cache of activations in"):
        StoredSource(tmp_path)


@pytest.mark.slow
def test_processes(sweep: Sweep, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Real processes."""
    done = sweep("out", "--on", "local", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert weights(tmp_path / "out") == expected
