"""Results of SAEBench: what is taken over, what is marked, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saebench.cli import app
from saebench.leaderboard.checks import load_boards
from saebench.leaderboard.imported import Imported, import_saebench
from saebench.leaderboard.rows import entry_rows, table_data
from saebench.leaderboard.site import build
from saebench.leaderboard.submit import import_results
from tests.leaderboard.samples import saebench_file

ORIGIN = "some-scope-2b/layer_12/width_16k/average_l0_22"
HOSTILE = "<script>alert(1)</script>\x1b]0;t\x07"


def imported(*paths: Path) -> list[Imported]:
    """Entries of files that must be imported without a problem."""
    entries, problems = import_saebench(paths)
    assert problems == []
    return entries


def test_numbers_are_taken_over_and_l0_is_a_claim(tmp_path: Path) -> None:
    (entry,) = imported(saebench_file(tmp_path / "r.json", 41, 0.64225))
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
    (entry,) = imported(saebench_file(tmp_path / "probing.json", 41), core)
    assert set(entry.evaluators) == {"saebench_sparse_probing", "saebench_core", "claimed"}
    metrics = entry.evaluators["saebench_core"].metrics
    assert metrics["reconstruction_quality.mse"].direction == "lower"
    assert metrics["reconstruction_quality.explained_variance"].direction == "higher"
    assert metrics["model_performance_preservation.ce_loss_score"].direction == "higher"
    assert metrics["model_performance_preservation.ce_loss_without_sae"].direction == "none"
    assert "bad.x" not in metrics  # SAEBench's -1 means that nothing was measured
    assert list(entry.files) == ["sparse_probing/probing.json", "core/core.json"]
    (same,), problems = import_saebench([core, core])
    assert list(same.evaluators) == ["saebench_core", "claimed"]
    origin = "some-scope-2b/layer_12/width_16k/average_l0_41"
    assert problems == [f"{core}: {origin} already has results of saebench_core, from {core}"]


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
        ({"eval_result_metrics": {"sae": {"a": "0.5"}}}, "it holds no number (sae.a is '0.5', not a number)"),
        ({"eval_result_metrics": 3}, "it is not a result of SAEBench: eval_result_metrics is not an object"),
        ({"eval_type_id": 3}, "it is not a result of SAEBench: eval_type_id is not text"),
        ({"eval_type_id": None, "eval_result_metrics": {"a": 1.0}},
         "it does not say of which evaluation it is (eval_type_id), and its metrics do not tell it (a)"),
        ({"eval_config": []}, "it is not a result of SAEBench: eval_config is not an object"),
        ({"sae_cfg_dict": "none"}, "it is not a result of SAEBench: sae_cfg_dict is not an object"),
        ({"sae_cfg_dict": {"d_sae": "many", "hook_name": "h"}}, "its sae_cfg_dict.d_sae is 'many', not a size"),
        ({"sae_cfg_dict": {"d_sae": True, "hook_name": "h"}}, "its sae_cfg_dict.d_sae is True, not a size"),
        ({"sae_cfg_dict": {"d_sae": 10**30, "hook_name": "h"}}, f"its sae_cfg_dict.d_sae is {10**30}, not a size"),
        ({"sae_cfg_dict": {}}, f"nothing says at which hook {ORIGIN} is: give it with --hook"),
        ({"sae_cfg_dict": {"hook_name": "h"}, "eval_config": {}},
         f"nothing says the language model of {ORIGIN}: give it with --model"),
    ],
)  # fmt: skip
def test_a_file_that_gives_nothing_is_named_in_one_sentence_and_the_others_are_imported(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    bad = saebench_file(tmp_path / "bad.json", **changes)
    written, problems = import_results([bad, saebench_file(tmp_path / "good.json", 41)], tmp_path / "boards")
    assert problems == [f"{bad}: {words}"]
    assert [path.name for path in written] == ["some-scope-2b-layer-12-width-16k-average-l0-41.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "it is not a result of SAEBench: it holds no JSON object"),
        ("{}", "it is not a result of SAEBench: it has none of eval_result_metrics, eval_results, custom_eval_results, "
               "basic_eval_results"),
        ('{"eval_type_id": "core", "sae_cfg_dict": {}}', "it is not a result of SAEBench: it has no eval_result_metrics"),
        ("{", "it is not JSON (line 1: Expecting property name enclosed in double quotes)"),
        ('{"eval_results": ' + "[" * 1000 + "]" * 1000 + "}", "it is nested too deeply"),
        ('{"eval_config": ' + '{"a": ' * 900 + "1" + "}" * 900 + ', "eval_results": {"l0": 1.0}}',
         "it is nested too deeply, in eval_config"),
        ('{"eval_results": {}, "eval_results": {}}', "it has the key 'eval_results' twice in one object"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_named_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert import_saebench([path]) == ([], [f"{path}: {words}"])
    path.write_bytes(b"\xff")
    assert import_saebench([path]).problems == [f"{path}: it is not UTF-8 text"]
    assert import_saebench([tmp_path / "none.json"]).problems == [
        f"{tmp_path / 'none.json'}: it is a link or cannot be read"
    ]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "true", "[0.64]", "1" * 400])
def test_a_number_that_is_none_is_named_and_the_others_are_imported(tmp_path: Path, number: str) -> None:
    path = saebench_file(tmp_path / "r.json")
    path.write_text(path.read_text().replace("0.64", number).replace('"random_seed": 42', f'"random_seed": {number}'))
    (entry,), problems = import_saebench([path])
    (problem,) = problems
    assert problem.startswith(f"{path}: sae.sae_top_1_test_accuracy is ") and problem.endswith(
        "not a number, and is left out"
    )
    assert sorted(entry.evaluators["saebench_sparse_probing"].metrics) == [
        "llm_test_accuracy", "llm_top_1_test_accuracy", "sae_test_accuracy",
    ]  # fmt: skip
    kept = {"true": True, "[0.64]": [0.64]}.get(number, number)
    assert entry.settings["sparse_probing"]["random_seed"] == kept
    (written,) = import_results([path], tmp_path / "boards")[0]
    assert json.loads(written.read_text())["settings"]["sparse_probing"]["random_seed"] == kept


def test_the_command_names_each_file_that_was_not_imported(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (folder / "core").mkdir(parents=True)
    saebench_file(folder / "core" / "a.json")
    (folder / "b\u202e.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    given = [str(folder), str(tmp_path / "empty"), "--root", str(tmp_path / "boards")]
    done = CliRunner().invoke(app, ["leaderboard", "import-saebench", *given])
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        f"Written: {tmp_path}/boards/tiny-2b/blocks.12.hook_resid_post/imported/"
        "some-scope-2b-layer-12-width-16k-average-l0-22.json",
        f"Not imported: {tmp_path}/empty: it is a folder without a file *.json.",
        f"Not imported: {folder}/b\ufffd.json: it is not a result of SAEBench: it holds no JSON object.",
    ]
    good = CliRunner().invoke(app, ["leaderboard", "import-saebench", str(folder / "core"), *given[2:]])
    assert good.exit_code == 0 and len(good.output.splitlines()) == 1


def test_names_from_a_file_stay_text_and_inside_the_folder(tmp_path: Path) -> None:
    metadata = {"hook_name": f"../../{HOSTILE}", "model_name": HOSTILE}
    path = saebench_file(
        tmp_path / "r.json",
        sae_lens_release_id=f"../../{HOSTILE}",
        sae_cfg_dict={"d_sae": 8, "architecture": HOSTILE, "metadata": metadata},
        eval_config={"model_name": f"../../../{HOSTILE}"},
        eval_result_metrics={"sae": {HOSTILE: 1.0}},
    )
    (written,), _ = import_results([path], tmp_path / "boards")
    assert (
        written.resolve().is_relative_to((tmp_path / "boards").resolve())
        and len(written.relative_to(tmp_path / "boards").parts) == 4
    )
    build(tmp_path / "boards", tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<script>alert(1)" not in page.read_text() and "\x1b" not in page.read_text()


def test_an_altered_entry_is_seen_by_the_check(tmp_path: Path) -> None:
    (path,), _ = import_results([saebench_file(tmp_path / "r.json")], tmp_path / "boards")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "name": "other"}))
    (problem,) = load_boards(tmp_path / "boards")[0].problems
    assert "its name is other" in problem.words


def test_real_files_of_saebench(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "results_saebench_gemmascope").glob("*_eval_results.json"))
    entries = imported(*files)
    assert len(entries) == len(files) == 15
    by_name = {entry.name: entry for entry in entries}
    entry = by_name["gemma-scope-2b-pt-res-layer-12-width-16k-average-l0-22"]
    assert entry.evaluators["saebench_sparse_probing"].metrics["sae_top_1_test_accuracy"].value == 0.64225
    assert entry.sae.architecture == "jumprelu" and entry.model == "gemma-2-2b"
    import_results(files, tmp_path / "boards")
    assert build(tmp_path / "boards", tmp_path / "site") == 15
