"""Results of SAEBench: what is taken over, what is marked, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saebench.errors import SaebenchError
from saebench.leaderboard.checks import load_boards
from saebench.leaderboard.files import BadFile
from saebench.leaderboard.imported import import_saebench
from saebench.leaderboard.rows import entry_rows, table_data
from saebench.leaderboard.site import build
from saebench.leaderboard.submit import import_results
from tests.leaderboard.samples import saebench_file

HOSTILE = "<script>alert(1)</script>\x1b]0;t\x07"


def test_numbers_are_taken_over_and_l0_is_a_claim(tmp_path: Path) -> None:
    (entry,) = import_saebench([saebench_file(tmp_path / "r.json", 41, 0.64225)])
    assert entry.name == "some-scope-2b-layer-12-width-16k-average-l0-41"
    assert (entry.model, entry.sae.hook, entry.sae.n_latents) == ("tiny-2b", "blocks.12.hook_resid_post", 16384)
    probing = entry.evaluators["saebench_sparse_probing"].metrics
    assert sorted(probing) == [
        "llm_test_accuracy",
        "llm_top_1_test_accuracy",
        "sae_test_accuracy",
        "sae_top_1_test_accuracy",
    ]
    assert probing["sae_top_1_test_accuracy"].value == 0.64225 and probing["sae_top_1_test_accuracy"].direction == "higher"
    assert probing["llm_test_accuracy"].direction == "none"
    assert entry.evaluators["claimed"].metrics["l0"].value == 41
    assert set(entry.unvouched) == {"weights", "text", "errors", "claimed.l0"}


def test_files_of_one_autoencoder_become_one_entry(tmp_path: Path) -> None:
    measured = {
        "sparsity": {"l0": 40.2, "l1": 100.0},
        "reconstruction_quality": {"mse": 0.3, "explained_variance": 0.8},
        "model_performance_preservation": {"ce_loss_score": 0.98, "ce_loss_without_sae": 2.9},
        "bad": {"x": -1},
    }
    core = saebench_file(tmp_path / "core.json", 41, eval_type_id="core", eval_result_metrics=measured)
    (entry,) = import_saebench([saebench_file(tmp_path / "probing.json", 41), core])
    assert set(entry.evaluators) == {"saebench_sparse_probing", "saebench_core", "claimed"}
    metrics = entry.evaluators["saebench_core"].metrics
    assert metrics["reconstruction_quality.mse"].direction == "lower"
    assert metrics["reconstruction_quality.explained_variance"].direction == "higher"
    assert metrics["model_performance_preservation.ce_loss_score"].direction == "higher"
    assert metrics["model_performance_preservation.ce_loss_without_sae"].direction == "none"
    assert "bad.x" not in metrics  # SAEBench's -1 means that nothing was measured
    assert len(entry.files) == 2
    with pytest.raises(BadFile, match="already has results of saebench_core"):
        import_saebench([core, core])


def test_a_measured_l0_comes_before_a_claimed_one(tmp_path: Path) -> None:
    core = saebench_file(tmp_path / "core.json", 41, eval_type_id="core", eval_result_metrics={"sparsity": {"l0": 40.2}})
    import_results([core, saebench_file(tmp_path / "other.json", 22)], tmp_path / "boards")
    rows = [row for row, _, _ in entry_rows(load_boards(tmp_path / "boards"))]
    data = table_data(rows, [{}])
    assert sorted(zip(data["rows"]["l0"], range(2), strict=True)) == [(22.0, 0), (40.2, 1)]
    assert data["rows"]["claimed"] == [0] and data["rows"]["imported"] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_result_metrics": {"sae": {"a": None}}}, "it holds no number"),
        ({"eval_result_metrics": 3}, "it is not a result of SAEBench"),
        ({"sae_cfg_dict": {}}, "it is not a result of SAEBench"),
        ({"sae_cfg_dict": {"d_sae": "many", "metadata": {"hook_name": "h"}}}, "not a result of SAEBench that can be read"),
    ],
)
def test_other_files_are_refused_with_their_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = saebench_file(tmp_path / "r.json", **changes)
    with pytest.raises(BadFile, match=words) as refused:
        import_saebench([path])
    assert str(refused.value).startswith("r.json: ")


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    path = saebench_file(tmp_path / "r.json")
    path.write_text(path.read_text().replace("0.64", "NaN"))
    with pytest.raises(SaebenchError, match="holds NaN"):
        import_results([path], tmp_path / "boards")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(SaebenchError, match="is not a result of SAEBench"):
        import_results([tmp_path / "list.json"], tmp_path / "boards")


def test_names_from_a_file_stay_text_and_inside_the_folder(tmp_path: Path) -> None:
    metadata = {"hook_name": f"../../{HOSTILE}", "model_name": HOSTILE}
    path = saebench_file(
        tmp_path / "r.json",
        sae_lens_release_id=f"../../{HOSTILE}",
        sae_cfg_dict={"d_sae": 8, "architecture": HOSTILE, "metadata": metadata},
        eval_config={"model_name": f"../../../{HOSTILE}"},
        eval_result_metrics={"sae": {HOSTILE: 1.0}},
    )
    (written,) = import_results([path], tmp_path / "boards")
    assert (
        written.resolve().is_relative_to((tmp_path / "boards").resolve())
        and len(written.relative_to(tmp_path / "boards").parts) == 4
    )
    build(tmp_path / "boards", tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<script>alert(1)" not in page.read_text() and "\x1b" not in page.read_text()


def test_an_altered_entry_is_seen_by_the_check(tmp_path: Path) -> None:
    (path,) = import_results([saebench_file(tmp_path / "r.json")], tmp_path / "boards")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "name": "other"}))
    (problem,) = load_boards(tmp_path / "boards")[0].problems
    assert "its name is other" in problem.words


def test_real_files_of_saebench(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "results_saebench_gemmascope").glob("*_eval_results.json"))
    entries = import_saebench(files)
    assert len(entries) == len(files) == 15
    by_name = {entry.name: entry for entry in entries}
    entry = by_name["gemma-scope-2b-pt-res-layer-12-width-16k-average-l0-22"]
    assert entry.evaluators["saebench_sparse_probing"].metrics["sae_top_1_test_accuracy"].value == 0.64225
    assert entry.sae.architecture == "jumprelu" and entry.model == "gemma-2-2b"
    import_results(files, tmp_path / "boards")
    assert build(tmp_path / "boards", tmp_path / "site") == 15
