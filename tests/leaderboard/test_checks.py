"""What the check of submissions lets through, and what it says of the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from saebench.cli import app
from saebench.definitions import definition_hash
from saebench.errors import SaebenchError
from saebench.leaderboard.benchmark import EvaluatorRule, benchmark_of, mismatches, read_benchmark, settings_hash, to_toml
from saebench.leaderboard.checks import load_boards, problems_of
from saebench.leaderboard.files import LARGEST_SUBMISSION, BadFile, folder_name, is_name
from saebench.leaderboard.plausible import _range
from saebench.leaderboard.submission import make_submission, proposed_name, read_submission, result_hash, to_json
from saebench.leaderboard.submit import start, submit
from saebench.results import Result, write_result
from tests.leaderboard.samples import CONTROLS, FOLDER, entry_result, submission, with_core, write_board
from tests.sample_results import metric

HOSTILE = "</script><script>alert(1)</script>"


def said(root: Path) -> list[str]:
    return [problem.words for board in load_boards(root) for problem in board.problems]


def altered(path: Path, change: Callable[[dict[str, Any]], None], rehash: bool = False) -> None:
    """Edit a submission's file as somebody with an editor would."""
    data = json.loads(path.read_text())
    change(data)
    if rehash:
        from saebench.results import canonical_hash

        data["result_sha256"] = canonical_hash(data["result"])
    path.write_text(json.dumps(data))


def test_a_sound_submission_passes(tmp_path: Path) -> None:
    write_board(tmp_path, [submission("one"), submission("two", entry_result(1, 16))])
    assert said(tmp_path) == []
    (board,) = load_boards(tmp_path)
    assert sorted(each.name for each in board.submissions.values()) == ["one", "two"]


def test_an_altered_number_breaks_the_hash(tmp_path: Path) -> None:
    path = write_board(tmp_path, [submission()]) / "entry.json"
    altered(
        path, lambda data: data["result"]["evaluators"]["reconstruction"]["metrics"]["normalised_mse"].update(value=0.01)
    )
    assert said(tmp_path) == ["its result does not have the hash result_sha256: it was altered after it was submitted"]


def test_a_consistent_lie_about_one_number_is_seen_in_its_samples(tmp_path: Path) -> None:
    path = write_board(tmp_path, [submission()]) / "entry.json"
    metrics = "reconstruction"
    altered(path, lambda d: d["result"]["evaluators"][metrics]["metrics"]["normalised_mse"].update(value=0.01), rehash=True)
    assert said(tmp_path) == ["reconstruction.normalised_mse is 0.01, but its samples give 0.0919615"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(submission_version=2), "submission_version: Input should be 1"),
        (lambda d: d.pop("contact"), "contact: Field required"),
        (lambda d: d.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda d: d.update(licence=""), "licence: is empty or holds control characters"),
        (lambda d: d.update(contact="a\u202eb"), "contact: is empty or holds control characters"),
        (lambda d: d.update(origin="x" * 501), "origin: String should have at most 500 characters"),
        (lambda d: d.update(name="../../x"), "name: is not a name"),
        (lambda d: d["result"]["sae"].update(d_in="576"), "result.sae.d_in: Input should be a valid integer"),
    ],
)
def test_what_does_not_follow_the_schema_is_named(tmp_path: Path, change: Any, words: str) -> None:
    altered(write_board(tmp_path, [submission()]) / "entry.json", change, rehash=True)
    (problem,) = said(tmp_path)
    assert words in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "a": 2}', "it has the key 'a' twice in one object"),
        (b'{"a": {"b": NaN}}', "it holds NaN, which is not JSON"),
        (b'{"a": -Infinity}', "it holds -Infinity, which is not JSON"),
        (b"{", "it is not JSON (line 1"),
        (b"\xff", "it is not UTF-8 text"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b"[]", "it does not follow the schema"),
    ],
)
def test_what_is_no_submission_is_said_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (write_board(tmp_path, []) / "entry.json").write_bytes(content)
    (problem,) = said(tmp_path)
    assert words in problem


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_board(tmp_path, []) / "entry.json"
    with path.open("wb") as stream:
        stream.truncate(200 * 2**20)  # a hole: takes no room on the disk, and would take 200 MB of memory
    (problem,) = said(tmp_path)
    assert problem == f"it has 209,715,200 bytes; at most {LARGEST_SUBMISSION:,} are read"


@pytest.mark.parametrize(
    "name", ["UPPER.json", "a b.json", "entry.txt", "..json", "a..b.json", "con.json", "-a.json", f"{'a' * 90}.json"]
)
def test_file_names_follow_a_pattern(tmp_path: Path, name: str) -> None:
    folder = write_board(tmp_path, [])
    (folder / name).write_text(to_json(submission()))
    assert any("only submissions are allowed here" in problem for problem in said(tmp_path)) or name.startswith(".")


@given(st.text(max_size=90))
def test_names_are_safe_as_files(text: str) -> None:
    if is_name(text):
        assert text == text.lower() and text.isascii() and ".." not in text and not set(text) & set('/\\:*?"<>| \x00')
        assert not text.startswith((".", "-")) and not text.endswith(".") and text


def test_links_and_other_things_are_not_followed(tmp_path: Path) -> None:
    folder = write_board(tmp_path / "boards", [])
    (tmp_path / "secret.json").write_text(to_json(submission()))
    (folder / "entry.json").symlink_to(tmp_path / "secret.json")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    problems = said(tmp_path / "boards")
    assert problems == ["it is a link or cannot be read", "it is not a regular file", "it is not a regular file"]


def test_a_file_must_be_called_as_it_calls_itself_and_lie_in_its_place(tmp_path: Path) -> None:
    folder = write_board(tmp_path, [])
    (folder / "other.json").write_text(to_json(submission("entry")))
    assert said(tmp_path) == ["its name is entry: its file must be entry.json"]
    (folder / "other.json").unlink()
    folder.rename(folder.parent / "blocks.1.hook_resid_pre")
    assert said(tmp_path) == ["it belongs in smollm2/blocks.15.hook_resid_pre"]
    (tmp_path / "stray.json").write_text("{}")
    assert "it is outside the folders <model>/<hook>" in said(tmp_path)


def test_the_same_autoencoder_twice_is_refused_but_another_k_is_not(tmp_path: Path) -> None:
    twin = entry_result(0, 32)
    other_k = entry_result(0, 16)
    write_board(tmp_path, [submission("one"), submission("three", other_k), submission("two", twin)])
    assert said(tmp_path) == ["the same autoencoder was submitted as one.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"complete": False}, "the result is not complete"),
        ({"failures": {"downstream": "out of memory"}}, "the evaluator downstream failed"),
        ({"seed": 1}, "seed is 1, the benchmark's is 0"),
        ({"controls": {}}, "the control 'random' is missing"),
    ],
)
def test_conditions_of_the_benchmark_hold(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write_board(tmp_path, [submission("entry", entry_result(**changes))])
    (problem,) = said(tmp_path)
    assert words in problem


def test_controls_have_every_evaluator_at_the_same_settings(tmp_path: Path) -> None:
    base = entry_result()
    others = {name: each.model_copy(update={"settings": {"rows": 1}}) for name, each in base.controls["random"].items()}
    path = (
        write_board(tmp_path, [submission("entry", entry_result(controls={"random": {}, "none-such": {}}))]) / "entry.json"
    )
    assert said(tmp_path) == [
        "there is no control 'none-such'",
        "the control 'random' has no reconstruction",
        "the control 'random' has no downstream",
    ]
    path.write_text(to_json(submission("entry", entry_result(controls={"random": others}))))
    assert "measured with another version or other settings of reconstruction" in said(tmp_path)[0]


def test_an_evaluator_can_need_other_controls_than_the_benchmark(tmp_path: Path) -> None:
    """As SAEBench's, of a merged result: the board made from it asks for no control that they lack."""
    without = with_core(entry_result())
    folder = write_board(tmp_path, [submission("entry", without)], of=without)
    benchmark = read_benchmark(folder)
    assert benchmark.controls_of("core") == () and benchmark.controls_of("downstream") == CONTROLS
    assert "controls = []" in (folder / "benchmark.toml").read_text() and said(tmp_path) == []
    rules = {**benchmark.evaluators, "core": benchmark.evaluators["core"].model_copy(update={"controls": None})}
    (folder / "benchmark.toml").write_text(to_toml(benchmark.model_copy(update={"evaluators": rules})))
    assert said(tmp_path) == ["the control 'random' has no core"]


def test_an_entry_without_an_optional_evaluator_stays_valid(tmp_path: Path) -> None:
    """Evaluators of another suite are added to a board, and earlier entries are not rewritten."""
    whole = with_core(entry_result(1))
    earlier = submission("earlier", entry_result(0))
    folder = write_board(tmp_path, [earlier, submission("whole", whole)], of=whole)
    assert said(tmp_path) == ["the evaluator core is missing"]
    text = (folder / "benchmark.toml").read_text()
    start, section, rest = text.partition("[evaluators.core]")
    (folder / "benchmark.toml").write_text(start + section + rest.replace("required = true", "required = false", 1))
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"ce_clean": [100.0] * 16}, "core.ce_loss_without_sae is 0.0492125984251968"),
        ({"ce_ablated": [9000.0] * 16}, "core.ce_loss_with_ablation is 4.429"),
        ({"variance": [9000.0] * 16}, "the activations' variance per token of core is 4.429"),
        ({"tokens": [2030.0] * 16}, "core: the rows' tokens do not add up to the 32,512 that counted"),
        ({"l0": [1e9] * 16}, "core: a row's sum of L0 or of cosines is larger than its tokens allow"),
        ({"squared_error": [-1.0] * 16}, "core: the sum by row squared_error is negative"),
    ],
)
def test_what_core_repeats_of_the_model_and_the_text_is_checked(
    tmp_path: Path, columns: dict[str, list[float]], words: str
) -> None:
    write_board(tmp_path, [submission("entry", with_core(entry_result(), **columns))], of=with_core(entry_result()))
    assert any(words in problem for problem in said(tmp_path)), said(tmp_path)


def test_a_metric_below_zero_is_in_its_range_where_it_can_be(tmp_path: Path) -> None:
    """A worse model than the ablated one has a negative score; a control's falls of other probes can be the larger ones."""
    worse = with_core(entry_result(), ce_spliced=[15.0 * 127 * 16] * 16)
    score = worse.evaluators["core"].metrics["ce_loss_score"]
    assert score.value is not None and score.value < 0
    write_board(tmp_path, [submission("entry", worse)], of=worse)
    assert said(tmp_path) == []
    total = metric("tpp_threshold_2_total_metric", -0.3)
    assert list(_range(worse, total)) == [] and list(_range(worse, metric("absorption_fraction", 1.3)))


def part(result: Result, name: str, **changes: Any) -> Result:
    return result.model_copy(update={name: getattr(result, name).model_copy(update=changes)})


def test_text_model_hook_and_weights_are_held_to_the_benchmark(tmp_path: Path) -> None:
    result = part(
        part(part(entry_result(), "corpus", context=64), "model", dtype="bfloat16"), "sae", hook_out="x", weights_sha256=None
    )
    write_board(tmp_path, [submission("entry", result)])
    assert said(tmp_path) == [
        "the result does not hold the SHA-256 of the autoencoder's weights",
        "model.dtype is bfloat16, the benchmark's is float32",
        "sae.hook_out is x, the benchmark's is blocks.15.hook_resid_pre",
        "corpus.context is 64, the benchmark's is 128",
        "reconstruction: the rows' tokens do not add up to the 32,512 that counted",
        "control random: reconstruction: the rows' tokens do not add up to the 32,512 that counted",
    ]


def test_evaluators_versions_settings_and_definitions_are_held_to_the_benchmark(tmp_path: Path) -> None:
    base = entry_result()
    later = base.evaluators["downstream"].model_copy(update={"version": 7})
    without = {"reconstruction": base.evaluators["reconstruction"]}
    cases = {
        "a": (
            base.model_copy(update={"evaluators": {**base.evaluators, "downstream": later}}),
            "is of version 7, the benchmark's is 1",
        ),
        "b": (base.model_copy(update={"evaluators": without}), "the evaluator downstream is missing"),
        "c": (base.model_copy(update={"settings": {"options": {"downstream": {"x": 1}}}}), "was run with other settings"),
        "d": (base.model_copy(update={"evaluators": {**base.evaluators, HOSTILE: later}}), "is not part of the benchmark"),
    }
    folder = write_board(tmp_path, [])
    for name, (result, words) in cases.items():
        path = folder / f"{name}.json"
        path.write_text(to_json(submission(name, result)))
        assert any(words in problem for problem in said(tmp_path)), name
        path.unlink()


def test_losses_that_no_autoencoder_changes_give_away_another_model(tmp_path: Path) -> None:
    base = entry_result()
    metrics = dict(base.evaluators["downstream"].metrics)
    metrics["ce_clean"] = metrics["ce_clean"].model_copy(update={"value": 2.7})
    changed = base.evaluators["downstream"].model_copy(update={"metrics": metrics})
    write_board(
        tmp_path, [submission("entry", base.model_copy(update={"evaluators": {**base.evaluators, "downstream": changed}}))]
    )
    assert any("downstream.ce_clean is 2.7, but the model's own, on this text, is 2.9" in each for each in said(tmp_path))


def test_definitions_of_the_checkout_are_those_of_the_benchmark(tmp_path: Path) -> None:
    folder = write_board(tmp_path, [])
    text = (folder / "benchmark.toml").read_text()
    (folder / "benchmark.toml").write_text(
        text + f'\n[definitions]\n"tasks/none-such" = "{"0" * 64}"\n"../x" = "{"0" * 64}"\n'
    )
    first, second = said(tmp_path)
    assert "no definition 'none-such'" in first and "it names a definition '../x'" in second
    known = definition_hash("tasks/classes", "ag_news")
    (folder / "benchmark.toml").write_text(text + f'\n[definitions]\n"tasks/classes/ag_news" = "{known}"\n')
    assert said(tmp_path) == []


def test_benchmarks_survive_their_file(tmp_path: Path) -> None:
    folder = write_board(tmp_path, [])
    benchmark = benchmark_of(entry_result(), 'A "title" \\ of \u00e9', CONTROLS)
    (folder / "benchmark.toml").write_text(to_toml(benchmark))
    assert read_benchmark(folder) == benchmark
    for wrong in ("x = [", "title = 1", "\udcff"):
        (folder / "benchmark.toml").write_bytes(wrong.encode("utf-8", "surrogateescape"))
        with pytest.raises(BadFile, match=r"it is not TOML|does not follow the schema"):
            read_benchmark(folder)
    (folder / "benchmark.toml").unlink()
    assert said(tmp_path) == ["it is missing: a leaderboard needs one"]


def test_an_option_that_names_what_is_the_default_is_no_other_setting() -> None:
    plain = entry_result()
    found = plain.evaluators["downstream"]
    resolved = plain.model_copy(
        update={"evaluators": plain.evaluators | {"downstream": found.model_copy(update={"settings": {"tokens": 96}})}}
    )

    def with_options(**options: int) -> str:
        settings = resolved.settings | {"options": {"downstream": options}}
        return settings_hash(resolved.model_copy(update={"settings": settings}), "downstream")

    assert with_options() == with_options(tokens=96) != with_options(tokens=97)
    assert with_options(other=1) != with_options()


def test_an_evaluator_that_is_not_required_may_be_missing_with_its_definitions(tmp_path: Path) -> None:
    result = entry_result()
    whole = benchmark_of(result, "A test", CONTROLS)
    named = whole.model_copy(update={"definitions": {"explain/n2g": "0" * 64}})
    assert mismatches(named, result) == [f"the definition explain/n2g is null, not {'0' * 16}…"]
    rules = dict(named.evaluators)
    for required in (False, True):
        rules["explainability"] = EvaluatorRule(version=2, settings="0" * 64, required=required)
        found = mismatches(named.model_copy(update={"evaluators": rules}), result)
        assert found == ["the evaluator explainability is missing"] * required


def test_submitting_finds_the_leaderboard_and_refuses_what_would_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"name": None, "origin": "o", "licence": "MIT", "contact": "c", "command": None}
    result = entry_result()
    with pytest.raises(SaebenchError, match=r"No leaderboard in .* is for smollm2"):
        submit(result, write_board(tmp_path / "empty", []).parents[1] / "smollm2", **given)
    root = write_board(tmp_path / "boards", []).parents[1]
    path = submit(result, root, **given)
    assert path == root / FOLDER / f"{proposed_name(result)}.json" and path.name == "topk-n9216-l0-32-00000000.json"
    assert read_submission(path).result == result and said(root) == []
    with pytest.raises(SaebenchError, match="exists: choose another --name"):
        submit(result, root, **given)
    with pytest.raises(SaebenchError, match="was submitted before, as topk-n9216-l0-32-00000000"):
        submit(result, root, **{**given, "name": "again"})
    with pytest.raises(SaebenchError, match=r"does not follow the benchmark of .*: seed is 4"):
        submit(entry_result(2, seed=4), root, **given)
    with pytest.raises(SaebenchError, match=r"cannot be submitted to .*: the control 'random' is missing"):
        submit(entry_result(2, controls={}), root, **given)
    with pytest.raises(SaebenchError, match="cannot be submitted: name: is not a name"):
        submit(entry_result(2), root, **{**given, "name": "../x"})
    monkeypatch.setattr("saebench.leaderboard.submit.LARGEST_SUBMISSION", 1000)
    with pytest.raises(SaebenchError, match="of which 1,000 are allowed"):
        submit(entry_result(3), root, **{**given, "name": "third"})
    with pytest.raises(SaebenchError, match="exists: submit to it"):
        start(result, "again", CONTROLS, root)


def test_the_hash_is_of_the_content_not_of_its_order() -> None:
    made = make_submission(entry_result(), "a", "o", "MIT", "c")
    assert made.result_sha256 == result_hash(Result.model_validate_json(entry_result().model_dump_json()))


def test_the_command_exits_with_1_and_names_the_file(tmp_path: Path) -> None:
    runner = CliRunner()
    root = write_board(tmp_path, [submission("good"), submission("bad", entry_result(1, seed=5))]).parents[1]
    done = runner.invoke(app, ["leaderboard", "check", "--root", str(root)])
    assert done.exit_code == 1 and "bad.json: seed is 5, the benchmark's is 0." in done.stdout
    good = runner.invoke(app, ["leaderboard", "check", str(root / FOLDER / "good.json"), "--root", str(root)])
    assert good.exit_code == 0 and "1 checked, no problems" in good.stdout
    other = runner.invoke(app, ["leaderboard", "check", str(tmp_path / "none.json"), "--root", str(root)])
    assert isinstance(other.exception, SaebenchError) and "is not a submission below" in str(other.exception)
    nowhere = runner.invoke(app, ["leaderboard", "check", "--root", str(tmp_path / "nowhere")])
    assert isinstance(nowhere.exception, SaebenchError)


def test_the_commands_lead_from_a_result_to_an_entry(tmp_path: Path) -> None:
    runner, root = CliRunner(), str(tmp_path / "boards")
    write_result(entry_result(), tmp_path / "r.json")
    begun = runner.invoke(
        app, ["leaderboard", "start", str(tmp_path / "r.json"), "--title", "T", "--controls", "random", "--root", root]
    )
    assert begun.exit_code == 0, begun.output
    who = ["--origin", "o", "--licence", "MIT", "--contact", "c", "--command", "make sae", "--root", root]
    done = runner.invoke(app, ["leaderboard", "submit", str(tmp_path / "r.json"), *who])
    assert done.exit_code == 0, done.output
    assert problems_of(load_boards(tmp_path / "boards")) == []


def test_folders_are_named_after_models() -> None:
    assert folder_name("EleutherAI/pythia-70m") == "EleutherAI--pythia-70m"
    assert folder_name("a b/../c") == "a-b--c"
    with pytest.raises(SaebenchError, match="cannot be the name of a folder"):
        folder_name("///")
