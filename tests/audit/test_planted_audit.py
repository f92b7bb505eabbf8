"""The quick audit, whole, and the files that it writes."""

import json
from dataclasses import replace

import pytest

from saebench.audit.output import verdict_data
from saebench.audit.plan import QUICK
from saebench.audit.planted_audit import audit_planted
from saebench.audit.planted_jobs import AuditJob, run_plan
from saebench.audit.references import audit_references
from saebench.audit.thresholds import read_thresholds
from saebench.errors import SaebenchError
from tests.distributed.helpers import Inline
from tests.test_docs import ROOT

SMALL = replace(
    QUICK, evaluators=("reconstruction",), options={}, tokens=512, seeds=1, repeats=2, doses=2, steps=(2, 4),
    training_tokens=4096,
)  # fmt: skip


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    return folder, {each.metric: each for each in audit_planted(folder, quick=True, evaluator="downstream")}


def test_quick_audit_of_one_evaluator(audited):
    folder, found = audited
    data = json.loads((folder / "audit.json").read_text())
    assert data["quick"] and data["thresholds_sha256"] == read_thresholds().sha256 and not data["failures"]
    assert {name.partition(".")[0] for name in found} == {"reconstruction", "downstream"}
    kl = found["downstream.kl_divergence"]
    assert kl.findings["dose"].outcome == "passed" and not kl.better_than_oracle
    assert kl.findings["validity"].outcome == "not known"
    assert all(each.verdict.standing != "sound" for each in found.values())  # too few autoencoders for validity
    assert [each["metric"] for each in data["metrics"]] == list(found)
    assert "dose-downstream-kl_divergence" in (folder / "audit.html").read_text()
    with pytest.raises(SaebenchError, match="without --quick"):
        verdict_data(data)


def test_damages_that_beat_the_oracle_are_listed(audited):
    folder, found = audited
    listed = json.loads((folder / "audit.json").read_text())["better_than_oracle"]
    assert listed == {name: list(each.better_than_oracle) for name, each in found.items() if each.better_than_oracle}
    assert "reconstruction.normalised_mse" not in listed


def test_unknown_evaluator_and_empty_folder(tmp_path):
    with pytest.raises(SaebenchError, match="no evaluator"):
        audit_planted(tmp_path, quick=True, evaluator="nothing")
    with pytest.raises(SaebenchError, match="no result"):
        audit_references(tmp_path, tmp_path / "out")


def test_references_are_compared_with_their_controls(tmp_path):
    board = ROOT / "leaderboards/smollm2/blocks.15.hook_resid_post"
    entries = sorted(path for path in board.glob("*.json") if path.name != "verified.json")
    results = [json.loads(entry.read_text())["result"] for entry in entries]
    found = {each.metric: each for each in audit_references(board, tmp_path / "out")}
    data = json.loads((tmp_path / "out/audit.json").read_text())
    assert data["results"] == len(entries) and (tmp_path / "out/audit.html").is_file()
    assert f'id="plot-lenses" style="height: {120 + 20 * len(found)}px"' in (tmp_path / "out/audit.html").read_text()
    assert set(found) >= {"reconstruction.normalised_mse", "downstream.kl_divergence"}
    usual = sum(not result["sae"]["training"].get("control") for result in results)  # trained controls have no pairs
    pairs = found["downstream.kl_divergence"].findings["floors"].details["controls"]
    assert {name: each["pairs"] for name, each in pairs.items()} == {"random": usual, "pca": usual}
    for each in found.values():
        assert each.findings["dose"].outcome == each.findings["validity"].outcome == "not known"
        assert each.verdict.standing != "sound"


def values(scores):
    return [(each.subject, each.metric, each.value, each.good, each.error) for each in scores]


def test_workers_give_the_scores_of_one_process():
    expected, _ = run_plan(SMALL)
    workers = Inline(2, lambda unit, number: number == 2)
    found, failures = run_plan(SMALL, workers=workers)
    assert values(found) == values(expected) and not failures
    units = [each.saes for each in workers.pool.log]
    assert len(units) == len(set(units)) + 1  # the one whose worker died was run again


def test_a_worker_on_another_machine_writes_its_own_tasks(tmp_path):
    plan = replace(SMALL, evaluators=("probe_loss",), options={"probe_loss": {"tasks": "planted"}}, tokens=1536)
    job = AuditJob(plan, 0, tmp_path / "on another machine")
    scores, failures = job.worker().found(len(job.experiments) - 1)
    assert scores and not failures and not job.folder.exists()


def test_the_first_experiment_that_fails_ends_the_audit():
    plan = replace(SMALL, evaluators=("ablation",), options={"ablation": {"tokens": 0}})
    for workers in (None, Inline(1)):
        with pytest.raises(SaebenchError, match=r"No evaluator ran on the planted model|tokens"):
            run_plan(plan, workers=workers)
    assert len(workers.pool.log) == 1
