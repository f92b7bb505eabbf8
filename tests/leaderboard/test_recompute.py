"""A submission against its checkpoint: the tiny model, a real evaluation, and numbers that were embellished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import saebench
from saebench.checkpoints import load, save_native
from saebench.cli import app
from saebench.leaderboard.benchmark import benchmark_of
from saebench.leaderboard.recompute import recompute
from saebench.leaderboard.submission import make_submission, to_json
from saebench.leaderboard.submit import start, submit
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from tests.conftest import FIXTURES, HOOK

MODEL = str(FIXTURES / "saelens_evals" / "model")


@pytest.fixture
def measured(
    tmp_path: Path, make_sae: Callable[..., SparseAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Result]:
    """A checkpoint and its result; text and model lie in the working folder, so that their names can be repeated."""
    monkeypatch.chdir(tmp_path)
    Path("saelens_evals").mkdir()
    Path("saelens_evals/model").symlink_to(MODEL)
    numbers = torch.randint(3, 200, (600,), generator=torch.Generator().manual_seed(0)).tolist()
    Path("words.txt").write_text(" ".join(f"w{number}" for number in numbers))
    checkpoint = save_native(make_sae(), tmp_path / "sae")
    (card,) = saebench.evaluate(
        [checkpoint], model="saelens_evals/model", hook=HOOK, corpus="words.txt", tokens=400, context=20, progress=False
    )
    return checkpoint, card.result


def test_the_checkpoint_gives_its_own_numbers(measured: tuple[Path, Result], tmp_path: Path) -> None:
    checkpoint, result = measured
    root = tmp_path / "boards"
    start(result, "tiny", (), root)
    submit(result, root, "tiny", "o", "MIT", "c", None)
    done = CliRunner().invoke(app, ["leaderboard", "check", "--recompute", str(checkpoint), "--root", str(root)])
    assert done.exit_code == 0, done.output
    assert "the checkpoint gives the stated numbers" in done.stdout


def embellished(result: Result, by: float) -> Result:
    """The normalised error and what follows from it, made better by a multiple of its standard error."""
    found = result.evaluators["reconstruction"]
    metrics = dict(found.metrics)
    error = (metrics["normalised_mse"].standard_error or 0.0) * by
    for name, sign in (("normalised_mse", -1), ("explained_variance", 1)):
        metrics[name] = metrics[name].model_copy(update={"value": (metrics[name].value or 0.0) + sign * error})
    details = {name: each for name, each in found.details.items() if name != "by_row"}
    changed = found.model_copy(update={"metrics": metrics, "details": details})
    return result.model_copy(update={"evaluators": {**result.evaluators, "reconstruction": changed}})


def test_embellished_numbers_pass_the_plain_check_but_not_the_checkpoint(
    measured: tuple[Path, Result], tmp_path: Path
) -> None:
    checkpoint, result = measured
    root = tmp_path / "boards"
    folder = start(result, "tiny", (), root).parent
    (folder / "tiny.json").write_text(to_json(make_submission(embellished(result, 3.0), "tiny", "o", "MIT", "c")))
    runner = CliRunner()
    assert runner.invoke(app, ["leaderboard", "check", "--root", str(root)]).exit_code == 0
    done = runner.invoke(app, ["leaderboard", "check", "--recompute", str(checkpoint), "--root", str(root)])
    assert done.exit_code == 1
    assert "reconstruction.normalised_mse is stated as" in done.stdout and "but the checkpoint gives" in done.stdout


def test_a_difference_within_the_stated_error_passes(measured: tuple[Path, Result]) -> None:
    checkpoint, result = measured
    benchmark = benchmark_of(result, "tiny", ())
    near = make_submission(embellished(result, 0.5), "tiny", "o", "MIT", "c")
    assert recompute(near, benchmark, load(checkpoint)) == []


def test_other_weights_and_another_text_are_distinguished(
    measured: tuple[Path, Result], tmp_path: Path, make_sae: Callable[..., Any]
) -> None:
    checkpoint, result = measured
    benchmark = benchmark_of(result, "tiny", ())
    entry = make_submission(result, "tiny", "o", "MIT", "c")
    other = save_native(make_sae(seed=1), tmp_path / "other")
    (problem,) = recompute(entry, benchmark, load(other))
    assert "the checkpoint's weights have the hash" in problem
    Path("words.txt").write_text(" ".join(reversed(Path("words.txt").read_text().split())))
    (problem,) = recompute(entry, benchmark, load(checkpoint))
    assert "differs from the submission's" in problem
