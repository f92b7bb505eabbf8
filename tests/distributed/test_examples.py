"""Examples of several checkpoints: those of each alone, in one process and on any number of workers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saebench.checkpoints import save_native
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder, TopK
from tests.conftest import FIXTURES
from tests.distributed.helpers import files_in, pools_here

NAMES = ["first", "second", "third"]
MODEL = str(FIXTURES / "saelens_evals" / "model")
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, text: Path, make_sae: Callable[..., SparseAutoencoder]) -> Run:
    """Runs the command into a folder below ``tmp_path``, by default for three checkpoints."""
    for seed, name in enumerate(NAMES):
        save_native(make_sae(activation=TopK(4 + seed), seed=seed), tmp_path / "saes" / name)

    def run(out: str, *more: str, names: list[str] = NAMES) -> Any:
        saes = [str(tmp_path / "saes" / name) for name in names]
        given = ["--model", MODEL, "--corpus", str(text), "--context", "16", "--tokens", "640", "--top", "2"]
        return CliRunner().invoke(app, ["examples", *saes, *given, "-o", str(tmp_path / out), *more])

    return run


def contents(folder: Path) -> dict[str, Any]:
    """All files, without the times of a collection."""
    found: dict[str, Any] = dict(files_in(folder))
    for name in found:
        if name.endswith("manifest.json"):
            manifest = json.loads(found[name])
            found[name] = {key: each for key, each in manifest.items() if key not in ("created", "stages")}
    return found


def test_examples_are_those_of_each_checkpoint_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        done = run(f"alone/{name}", names=[name])
        assert done.exit_code == 0, done.output
    expected = contents(tmp_path / "alone")
    assert run("single").exit_code == 0
    assert contents(tmp_path / "single") == expected
    made = pools_here(monkeypatch, dies=lambda unit, number: number == 2)
    for count in (1, 2):
        done = run(str(count), "--on", "local", "--workers", str(count))
        assert done.exit_code == 0 and done.output.count("latents were active on") == 3, done.output
        assert contents(tmp_path / str(count)) == expected
        assert len(made[-1].log) == 3 + 1  # one of them died
    assert run("inside", "--all", "--on", "local", names=[""]).exit_code == 0
    assert contents(tmp_path / "inside") == expected


def test_a_worker_loads_the_language_model_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    actual = LanguageModel.load

    def counted(name: str, *rest: Any) -> LanguageModel:
        loaded.append(name)
        return actual(name, *rest)

    monkeypatch.setattr(LanguageModel, "load", staticmethod(counted))
    assert run("out").exit_code == 0
    assert loaded == [MODEL]


@pytest.mark.parametrize("more", [[], ["--on", "local", "--workers", "2"]])
def test_a_damaged_checkpoint_is_left_out_and_resuming_collects_it_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    pools_here(monkeypatch)
    weights = tmp_path / "saes/second/sae.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-200])
    done = run("out", *more)
    words = " ".join(done.output.split())
    assert done.exit_code == 1 and "1 of 3 checkpoints have no examples: " in words, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "third"]
    weights.write_bytes(whole)
    before = {name: (tmp_path / "out" / name / "manifest.json").stat().st_mtime_ns for name in ("first", "third")}
    assert run("out", *more, "--resume").exit_code == 0
    assert before == {name: (tmp_path / "out" / name / "manifest.json").stat().st_mtime_ns for name in before}
    assert run("out", *more, "--resume", "--seed", "1").exit_code == 0  # other settings: collected again
    seeds = [json.loads((tmp_path / "out" / name / "manifest.json").read_text())["seed"] for name in NAMES]
    assert seeds == [1, 1, 1]


def test_what_is_refused_is_refused_before_the_model_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "load", None)
    for more, words in (
        (["--workers", "2"], "add --on local or --on ray"),
        (["--on", "slurm"], "not on 'slurm'"),
        (["--on", "local", "--hook", "blocks.99.hook_resid_post"], "blocks.99"),
    ):
        refused = run("out", *more)
        assert isinstance(refused.exception, SaebenchError) and words in str(refused.exception), refused.exception


def test_examples_that_do_not_fit_are_refused_before_the_model_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "load", None)
    monkeypatch.setattr("saebench.distributed.memory.free_memory", lambda device: 300_000)
    refused = run("out", "--on", "local", "--workers", "2")
    words = (
        r"A worker needs \(model 0\.00 \+ batch 0\.00 \+ SAE 0\.00\) x 1\.25 = 0\.00 GiB, but has 0\.00: use fewer workers"
    )
    assert isinstance(refused.exception, SaebenchError) and re.match(words, str(refused.exception)), refused.exception
