"""The audit of a sweep's folder: what is evaluated, resuming, and a grid with missing cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saebench.audit import reference_runs
from saebench.audit.reference_runs import Cells
from saebench.audit.references import audit_references
from saebench.checkpoints.native import save_native
from saebench.errors import SaebenchError
from saebench.evaluation.settings import EvaluationSettings
from saebench.planted import PlantedWorld, plant
from saebench.results import read_result
from saebench.sae import SparseAutoencoder, TopK
from saebench.training.config import read_sweep
from tests.conftest import FIXTURES
from tests.distributed.helpers import Inline

MEMBERS = len(read_sweep("reference")[1])


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return plant()


def settings_of(world: PlantedWorld, **more: Any) -> EvaluationSettings:
    given: dict[str, Any] = {
        "model": world.model, "corpus": world.corpus(512, seed=1), "evaluators": ["reconstruction"], "controls": ["random"]
    }  # fmt: skip
    return EvaluationSettings(**given | more)


def record(seed: int, tokens: int, complete: bool = True, k: int = 3) -> dict[str, Any]:
    return {"complete": complete, "tokens": tokens, "config": {"k": k, "seed": seed}}


@pytest.fixture
def runs(world: PlantedWorld, tmp_path: Path) -> Path:
    """Two seeds of a run with copies, a run of another damage, and one that has not ended; of the built-in sweep."""
    folder = tmp_path / "runs"
    for seed, name in enumerate(("topk-n4096-k32", "topk-n4096-k32-seed1")):
        for tokens, share in ((100, 0.75), (200, 0.5), (300, 0.25)):
            save_native(world.damaged("dead", share, seed), folder / name / f"after-{tokens}", record(seed, tokens))
        save_native(world.damaged("dead", 0.25, seed), folder / name, record(seed, 300))
    save_native(world.damaged("random", 0.5), folder / "jumprelu-n4096-k64", record(0, 300, k=5))
    save_native(world.oracle(), folder / "topk-n4096-k16", record(0, 100, complete=False))
    (folder / "manifest.json").write_text(json.dumps({"recipe": "reference", "members": {}}))
    return folder


def test_cells_that_are_missing_or_unfinished_are_named(runs: Path) -> None:
    cells = Cells.of(runs)
    assert list(cells.finished) == ["jumprelu-n4096-k64", "topk-n4096-k32", "topk-n4096-k32-seed1"]
    assert cells.unfinished == ("topk-n4096-k16",) and "topk-n4096-k128" in cells.missing
    assert len(cells.finished) + len(cells.unfinished) + len(cells.missing) == MEMBERS
    assert list(cells.copies) == [f"topk-n4096-k32{seed}-after-{tokens}" for seed in ("", "-seed1") for tokens in (100, 200)]
    assert cells.sentence().startswith(f"3 of the {MEMBERS} autoencoders of the recipe reference and 4 copies")
    assert "topk-n4096-k16 (unfinished)" in cells.sentence()


def test_an_interrupted_audit_resumes(
    world: PlantedWorld, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", settings_of(world)
    monkeypatch.setattr(reference_runs, "TOGETHER", 1)
    made: list[str] = []
    actual = reference_runs.EvaluationRun

    def interrupted(saes: Any, *rest: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(Path(saes[0]).name)
        return actual(saes, *rest)

    monkeypatch.setattr(reference_runs, "EvaluationRun", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit_references(runs, out, settings)
    assert not (out / "audit.json").exists()
    monkeypatch.setattr(reference_runs, "EvaluationRun", actual)
    before = {path.name: json.loads(path.read_text())["created"] for path in (out / "results").glob("*.json")}
    assert set(before) == {"jumprelu-n4096-k64.json", "topk-n4096-k32.json"}
    found = {each.metric: each for each in audit_references(runs, out, settings)}
    assert {name: json.loads((out / "results" / name).read_text())["created"] for name in before} == before
    assert len(list((out / "results").glob("*.json"))) == 7
    mse = found["reconstruction.normalised_mse"]
    assert mse.findings["trajectory"].details["runs"] == 2 and mse.findings["trajectory"].value == 1.0
    assert mse.findings["floors"].outcome == "not known"  # three pairs; four are needed
    data = json.loads((out / "audit.json").read_text())
    assert data["cells"]["missing"] and data["cells"]["recipe"] == "reference"
    assert f"3 of the {MEMBERS} autoencoders" in (out / "audit.html").read_text()


def test_results_of_other_settings_are_not_mixed(world: PlantedWorld, runs: Path, tmp_path: Path) -> None:
    settings = settings_of(world)
    audit_references(runs, tmp_path / "out", settings)
    with pytest.raises(SaebenchError, match="seed"):
        audit_references(runs, tmp_path / "out", replace(settings, seed=1))


def test_workers_evaluate_the_same(make_sae: Callable[..., SparseAutoencoder], text: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        save_native(make_sae(activation=TopK(4), seed=seed), tmp_path / "runs" / name, record(seed, 300))
    settings = EvaluationSettings(
        model=str(FIXTURES / "saelens_evals" / "model"), corpus=str(text), context=16, tokens=512,
        evaluators=["reconstruction"], controls=["random"],
    )  # fmt: skip
    alone = {each.metric: each for each in audit_references(tmp_path / "runs", tmp_path / "alone", settings)}
    for count in (1, 2):
        workers = Inline(count)
        found = audit_references(tmp_path / "runs", tmp_path / str(count), settings, workers=workers)
        assert {each.metric for each in found} == set(alone)
        for name in "ab":
            values, others = (
                read_result(tmp_path / out / "results" / f"{name}.json").evaluators["reconstruction"].metrics
                for out in (str(count), "alone")
            )
            assert values["normalised_mse"].value == pytest.approx(others["normalised_mse"].value, rel=2e-6)
    again = Inline(2)
    audit_references(tmp_path / "runs", tmp_path / "2", settings, workers=again)
    assert not hasattr(again, "pool")  # nothing was left to evaluate
    with pytest.raises(SaebenchError, match="--on is for evaluating the autoencoders of a sweep's folder"):
        audit_references(tmp_path / "2/results", tmp_path / "out", workers=Inline(1))


def test_results_that_are_not_complete_are_named(
    world: PlantedWorld, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit_references(runs, tmp_path / "out", settings_of(world))
    results = tmp_path / "out" / "results"
    data = json.loads((results / "topk-n4096-k32.json").read_text())
    data["complete"] = False
    (results / "topk-n4096-k32.json").write_text(json.dumps(data))
    capsys.readouterr()
    audit_references(results, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "audit.json").read_text())["partial"] == ["topk-n4096-k32.json"]
    assert (
        "Not complete, so that lenses lack what is missing there: topk-n4096-k32.json."
        in (tmp_path / "again" / "audit.html").read_text()
    )
    assert "topk-n4096-k32.json" in capsys.readouterr().err
