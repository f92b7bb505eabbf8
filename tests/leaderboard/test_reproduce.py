"""A submission against its checkpoint: the tiny model, a real evaluation, and values that were embellished consistently."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import saebench
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluators.base import Measured, installed_evaluators
from saebench.leaderboard.checks import load_boards
from saebench.leaderboard.plausible import implausible
from saebench.leaderboard.reproduce import _differences, draw
from saebench.leaderboard.submission import make_submission, to_json
from saebench.leaderboard.submit import reproduce, start, submit
from saebench.progress import Progress
from saebench.results import EvaluatorResult, Result, merged
from tests.conftest import HOOK
from tests.evaluators.class_sets import write_sets
from tests.sample_results import evaluator, metric, sample_result


def board(root: Path, result: Result) -> Path:
    """A leaderboard with one entry, ``tiny``, that requires its controls; gives the entry's file."""
    start(result, "tiny", tuple(result.controls), root)
    return submit(result, root, "tiny", "o", "MIT", "c", None)


def run(workplace: Path, entry: Path, *more: str, checkpoint: str = "sae") -> Any:
    with chdir(workplace):
        root = str(entry.parents[2])
        return CliRunner().invoke(app, ["leaderboard", "reproduce", str(entry), checkpoint, "--root", root, *more])


def changed(result: Result, evaluator: str, key: str, columns: dict[str, float]) -> Result:
    """Columns of an evaluator's details multiplied by a factor, and every metric made to follow from them."""
    found = result.evaluators[evaluator]
    record = dict(found.details[key])
    for column, factor in columns.items():
        record[column] = [None if value is None else value * factor for value in record[column]]
    altered = found.model_copy(update={"details": {**found.details, key: record}})
    metrics = installed_evaluators()[evaluator].recomputed(altered, Measured.of(result))
    altered = altered.model_copy(update={"metrics": {metric.name: metric for metric in metrics}})
    return result.model_copy(update={"evaluators": {**result.evaluators, evaluator: altered}})


@pytest.mark.parametrize("rows", ["5%", "0.4", "100%"])
def test_the_checkpoint_gives_its_own_values(workplace: Path, every_evaluator: Result, tmp_path: Path, rows: str) -> None:
    entry = board(tmp_path / "boards", every_evaluator)
    done = run(workplace, entry, "--rows", rows)
    assert done.exit_code == 0, done.output
    assert "the checkpoint gives the stated values of" in done.stdout and not (entry.parent / "verified.json").exists()


@pytest.mark.parametrize(
    ("evaluator", "key", "columns", "words"),
    [
        (
            "reconstruction",
            "by_row",
            {"squared_error": 0.97, "unit_error": 0.97, "relative_error": 0.97},
            "squared_error of row",
        ),
        ("downstream", "by_row", {"kl_divergence": 0.9}, "kl_divergence of row"),
        ("shrinkage", "by_row", {"refined_error": 0.9}, "refined_error of row"),
        ("progressive", "by_row", {"error count 1": 0.9}, "error count 1 of row"),
        ("progressive", "by_sampled_row", {"ce_spliced count 8": 0.99}, "ce_spliced count 8 of sampled row"),
    ],
)
def test_a_consistent_forgery_passes_the_check_but_not_the_checkpoint(
    workplace: Path, every_evaluator: Result, tmp_path: Path, evaluator: str, key: str, columns: dict[str, float], words: str
) -> None:
    forged = changed(every_evaluator, evaluator, key, columns)
    assert implausible(forged) == []
    done = run(workplace, board(tmp_path / "boards", forged))
    assert done.exit_code == 1
    assert f"{evaluator}, {words}" in done.stdout and "values differ" in done.stdout


def test_forged_explanations_and_ablations_are_found(workplace: Path, every_evaluator: Result, tmp_path: Path) -> None:
    explained = every_evaluator.evaluators["explainability"]
    own = explained.details["by_latent"]["own"]
    better = {**own, "f1": [None if value is None else 1.0 for value in own["f1"]]}
    details = {**explained.details, "by_latent": {**explained.details["by_latent"], "own": better}}
    ablated = every_evaluator.evaluators["ablation"]
    latents = ablated.details["by_row"]["latents"]
    sparser = {**latents, "sparsity": [value / 2 for value in latents["sparsity"]]}
    forged = every_evaluator
    for name, changes in (
        ("explainability", details),
        ("ablation", {**ablated.details, "by_row": {**ablated.details["by_row"], "latents": sparser}}),
    ):
        altered = forged.evaluators[name].model_copy(update={"details": changes})
        metrics = installed_evaluators()[name].recomputed(altered, Measured.of(forged))
        altered = altered.model_copy(update={"metrics": {metric.name: metric for metric in metrics}})
        forged = forged.model_copy(update={"evaluators": {**forged.evaluators, name: altered}})
    assert implausible(forged) == []
    done = run(workplace, board(tmp_path / "boards", forged))
    assert done.exit_code == 1
    assert "explainability, f1 of latent" in done.stdout and "ablation, sparsity of latents of row" in done.stdout


def test_a_mark_is_written_checked_and_void_after_a_change(workplace: Path, every_evaluator: Result, tmp_path: Path) -> None:
    root = tmp_path / "boards"
    entry = board(root, every_evaluator)
    done = run(workplace, entry, "--mark", "--seed", "7")
    assert done.exit_code == 0, done.output
    (loaded,) = load_boards(root)
    assert loaded.problems == [] and loaded.verified["tiny"].seed == 7 and "rows of text" in loaded.verified["tiny"].part
    other = every_evaluator.model_copy(update={"notices": ["x"]})
    entry.write_text(to_json(make_submission(other, "tiny", "o", "M", "c")))
    (loaded,) = load_boards(root)
    assert loaded.verified == {}
    assert "tiny has changed since it was reproduced" in str(loaded.problems[0])
    (entry.parent / "verified.json").write_text('{"verified_version": 1, "entries": {"x": 1}}')
    (loaded,) = load_boards(root)
    assert "it does not follow the schema (entries.x" in str(loaded.problems[0])


@pytest.fixture
def two_suites(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Result]:
    """A data folder with two sets of classes, and a merged result: downstream with two controls, the others with one."""
    folder = tmp_path / "data"
    write_sets(folder, ("first", "second"), monkeypatch)
    sizes = {"tasks": "first,second", "train": 60, "test": 40}
    given: dict[str, Any] = {
        "model": "saelens_evals/model", "hook": HOOK, "corpus": "words.txt", "tokens": 800, "context": 20, "progress": False,
        "data_dir": str(folder),
    }  # fmt: skip
    with chdir(workplace):
        (one,) = saebench.evaluate(["sae"], evaluators=["downstream"], controls=("random", "pca"), **given)
        (two,) = saebench.evaluate(["sae"], evaluators=["core", "sparse_probing", "tpp"], controls=("random",),
                                   options={"sparse_probing": sizes, "tpp": sizes}, **given)  # fmt: skip
    return folder, merged({"one.json": one.result, "two.json": two.result})


def test_a_merged_result_is_reproduced_each_evaluator_with_its_own_controls(
    workplace: Path, two_suites: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = two_suites
    entry = board(tmp_path / "boards", result)
    assert [problem for each in load_boards(tmp_path / "boards") for problem in each.problems] == []
    part = draw(result, 0.05, 0)
    assert {name: len(tasks) for name, tasks in part.tasks.items()} == {"sparse_probing": 1, "tpp": 1}
    assert draw(result, 1.0, 0).tasks["tpp"] == ("first", "second") and "2 probing tasks" in str(part)
    ran: list[tuple[set[str], set[str]]] = []
    original = EvaluationRun.run

    def recorded(self: EvaluationRun) -> list[Result]:
        found = original(self)
        ran.extend((set(each.evaluators), set(each.controls)) for each in found)
        return found

    monkeypatch.setattr(EvaluationRun, "run", recorded)
    done = run(workplace, entry, "--data-dir", str(folder), "--seed", "0")
    assert done.exit_code == 0, done.output
    assert ran == [({"downstream"}, {"random", "pca"}), ({"core", "sparse_probing", "tpp"}, {"random"})]


def test_forged_numbers_of_saebench_s_evaluations_are_found(
    workplace: Path, two_suites: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, result = two_suites
    tpp, probing = (result.evaluators[name].details for name in ("tpp", "sparse_probing"))
    falls = {name: {n: {each: [0.5, 0.01] for each in its} for n, its in by.items()}
             for name, by in tpp["sets"]["first"]["units"]["first"]["falls"].items()}  # fmt: skip
    sets = {name: {**each, "units": {name: {**each["units"][name], "falls": falls}}} for name, each in tpp["sets"].items()}
    better = {"accuracy": 0.99, "auc": 0.99, "standard_error": 0.01}
    tasks = {
        name: {**each, "sae": {its: {k: by | better for k, by in found.items()} for its, found in each["sae"].items()}}
        for name, each in probing["tasks"].items()
    }
    forged = changed(result, "core", "by_row", {"kl_divergence": 0.9})
    for name, details in (("tpp", {**tpp, "sets": sets}), ("sparse_probing", {**probing, "tasks": tasks})):
        altered = forged.evaluators[name].model_copy(update={"details": details})
        metrics = installed_evaluators()[name].recomputed(altered, Measured.of(forged))
        altered = altered.model_copy(update={"metrics": {metric.name: metric for metric in metrics}})
        forged = forged.model_copy(update={"evaluators": {**forged.evaluators, name: altered}})
    assert implausible(forged) == []
    entry = board(tmp_path / "boards", forged)
    with chdir(workplace):
        found = reproduce(entry, "sae", tmp_path / "boards", 0.05, 0, False, str(folder), Progress(shown=False))
    for words in ("core, kl_divergence of row", "sparse_probing, ", "tpp, "):
        assert any(words in problem for problem in found.problems), words


def test_letters_are_compared_one_by_one_and_others_by_their_metrics() -> None:
    columns = {
        "letter": [0, 1],
        "probe_f1": [0.8, 0.7],
        "words": [90, 80],
        "main_latents": [1, None],
        "fraction": [0.1, 0.3],
    }

    def made(name: str, **changes: Any) -> EvaluatorResult:
        details = {"by_letter": {**columns, **changes}}
        return evaluator(name, [metric("score", changes.get("score", 0.5))], details)

    part = draw(sample_result(), 0.05, 0)
    for now, words in (
        ({"fraction": [0.11, 0.3], "words": [91, 80]}, []),
        ({"fraction": [0.1, 0.5]}, ["absorption, fraction of letter 1 is stated as 0.3, but the checkpoint gives 0.5"]),
        (
            {"main_latents": [1, 2]},
            ["absorption, main_latents of letter 1 is stated as undefined, but the checkpoint gives 2"],
        ),
    ):
        claimed, found = {"absorption": made("absorption")}, {"absorption": made("absorption", **now)}
        assert list(_differences(claimed, found, part, "")) == words
    other = list(_differences({"plug": made("plug")}, {"plug": made("plug", score=0.6)}, part, ""))
    assert other == ["plug, score is stated as 0.5, but the checkpoint gives 0.6"]


def test_other_weights_another_text_and_a_bad_share_are_named(
    workplace: Path, every_evaluator: Result, tmp_path: Path
) -> None:
    import shutil

    entry = board(tmp_path / "boards", every_evaluator)
    work = tmp_path / "work"
    shutil.copytree(workplace, work, symlinks=True)
    from safetensors.torch import load_file, save_file

    weights = next((work / "sae").glob("*.safetensors"))
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights)
    done = run(work, entry)
    assert done.exit_code == 1 and "the checkpoint's weights have the hash" in done.stdout
    words = (workplace / "words.txt").read_text().split()
    (work / "words.txt").write_text(" ".join(reversed(words)))
    shutil.rmtree(work / "sae")
    shutil.copytree(workplace / "sae", work / "sae")
    other = run(work, entry)
    assert isinstance(other.exception, SaebenchError) and "text or model differs" in str(other.exception)
    for share in ("0%", "x", "200%"):
        refused = run(workplace, entry, "--rows", share)
        assert isinstance(refused.exception, SaebenchError) and "is no share" in str(refused.exception)


def test_what_is_drawn_covers_every_evaluator_and_follows_the_seed(every_evaluator: Result) -> None:
    part = draw(every_evaluator, 0.05, 3)
    assert torch.equal(part.rows, draw(every_evaluator, 0.05, 3).rows)
    assert len({tuple(draw(every_evaluator, 0.05, seed).rows.tolist()) for seed in range(8)}) > 4
    rows = set(part.rows.tolist())
    assert rows & set(every_evaluator.evaluators["ablation"].details["by_row"]["latents"]["row"])
    assert rows & set(every_evaluator.evaluators["progressive"].details["by_sampled_row"]["row"])
    assert len(part.latents) == 1 and len(rows) < every_evaluator.corpus.rows / 2
