from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saebench.errors import SaebenchError
from saebench.files import check_writable
from saebench.provenance import portable_name, sae_record
from saebench.report.scorecard import Scorecard
from saebench.results import (
    EvaluatorResult,
    Metric,
    Result,
    canonical_hash,
    check_same_run,
    json_schema,
    read_result,
    validate,
    write_result,
)
from saebench.results.cards import to_frame
from saebench.sae import SparseAutoencoder
from tests.sample_results import TOKENS, evaluator, metric, sample_result

SCHEMA = Path(__file__).parents[2] / "docs" / "result.schema.json"
RENEW = (
    "from pathlib import Path; from saebench.results import json_schema; import json; "
    "Path('docs/result.schema.json').write_text(json.dumps(json_schema(), indent=2) + chr(10))"
)


def changed(path: Path, **changes: Any) -> Path:
    """A result file whose top-level fields are replaced; written as it is, valid or not."""
    path.write_text(json.dumps({**json.loads(sample_result().model_dump_json()), **changes}))
    return path


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    result = sample_result(controls=True, failures={"slow": "out of memory"})
    write_result(result, tmp_path / "new" / "folder" / "result.json")
    assert read_result(tmp_path / "new" / "folder" / "result.json") == result
    assert validate(tmp_path / "new" / "folder" / "result.json") == []
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["result.json"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1e300))
def test_numbers_survive_exactly(value: float, error: float) -> None:
    one = metric("one", value, error)
    assert Metric.model_validate_json(one.model_dump_json()) == one


def test_the_result_of_a_leaderboards_entry_is_read(tmp_path: Path) -> None:
    result = sample_result()
    entry = {"submission_version": 1, "name": "topk", "result": json.loads(result.model_dump_json())}
    (tmp_path / "entry.json").write_text(json.dumps(entry))
    assert read_result(tmp_path / "entry.json") == result
    entry["result"]["schema_version"] = 9
    (tmp_path / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(SaebenchError, match="its schema_version is 9"):
        read_result(tmp_path / "entry.json")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_result(sample_result("old"), path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaebenchError, match="No space left on device"):
        write_result(sample_result("new"), path)
    assert read_result(path).sae.origin == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaebenchError, match="Cannot write"):
        check_writable(tmp_path / "file" / "result.json")
    with pytest.raises(SaebenchError, match="it is a folder; give a file"):
        check_writable(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["value", "standard_error"])
def test_metrics_refuse_what_is_not_a_finite_number(field: str, bad: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Metric(**{"name": "m", "value": 1.0, "unit": "1", "direction": "none", "n": 1, field: bad})
    with pytest.raises(ValidationError, match="finite number"):
        metric("m", 1.0, interval=(0.0, bad))


def test_null_and_its_reason_come_together() -> None:
    assert metric("m", None, reason="nothing was counted").reason == "nothing was counted"
    with pytest.raises(ValidationError, match="m: a null value needs a reason"):
        metric("m", None)
    with pytest.raises(ValidationError, match="only a null value has one"):
        metric("m", 0.0, reason="but it is 0")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "it is not JSON (line 1"),
        (b"[1, 2]", "its schema_version is None; this version of saebench reads 1."),
        (b'{"schema_version": 2}', "its schema_version is 2; this version of saebench reads 1."),
        (b'{"schema_version": 1, "seed": NaN}', "it holds NaN, which is not JSON"),
        (b'{"schema_version": 1, "seed": -Infinity}', "it holds -Infinity, which is not JSON"),
        (b'"\xff"', "it is not UTF-8 text."),
        (b"[" * 100_000, "it is nested too deeply."),
    ],
)
def test_what_is_no_result_file_is_said_in_a_sentence(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    (found,) = validate(path)
    assert problem in found
    with pytest.raises(SaebenchError, match="is not a valid result file"):
        read_result(path)


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert validate(tmp_path / "none.json") == ["it cannot be read (No such file or directory)."]
    write_result(sample_result(), tmp_path / "result.json")
    monkeypatch.setattr("saebench.results.schema.LARGEST_FILE", 1 << 10)
    assert "it is larger than" in validate(tmp_path / "result.json")[0]


def test_every_problem_is_named_with_its_place(tmp_path: Path) -> None:
    sae = {**json.loads(sample_result().model_dump_json())["sae"], "d_in": 0, "colour": "blue"}
    problems = validate(changed(tmp_path / "bad.json", sae=sae, seed="many"))
    assert len(problems) == 3
    assert any(problem.startswith("sae.d_in: Input should be greater than 0") for problem in problems)
    assert any(problem.startswith("sae.colour: Extra inputs are not permitted") for problem in problems)
    assert any(problem.startswith("seed: Input should be a valid integer") for problem in problems)


def test_numbers_too_large_for_a_float_are_refused(tmp_path: Path) -> None:
    path = changed(tmp_path / "bad.json")
    path.write_text(path.read_text().replace('"value": 32.0', '"value": 1e999'))
    assert validate(path) == ["evaluators.reconstruction.metrics.l0.value: Input should be a finite number."]


def test_settings_hash_the_same_in_any_order_and_never_with_nan() -> None:
    assert canonical_hash({"a": 1, "b": [1, 2]}) == canonical_hash({"b": [1, 2], "a": 1})
    assert canonical_hash({"a": 1, "b": [1, 2]}) != canonical_hash({"a": 1, "b": [2, 1]})
    assert canonical_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # SHA-256 of "{}"
    with pytest.raises(ValueError, match="JSON"):
        canonical_hash({"a": float("nan")})


def test_resuming_needs_the_same_settings_and_names_those_that_differ() -> None:
    earlier = sample_result()
    again = sample_result(stages={}, created="2026-12-01T00:00:00+00:00")
    check_same_run(earlier, again.identity(), ["downstream"], "r.json")
    other = sample_result(seed=1, settings={"options": {"downstream": {"scaling_law": "mine.toml"}}, "extra": True})
    with pytest.raises(
        SaebenchError, match=r"r\.json was made with other settings \(options of downstream, seed, settings\.extra\)"
    ):
        check_same_run(earlier, other.identity(), ["downstream"], "r.json")


def test_resuming_may_add_evaluators_with_options_of_their_own() -> None:
    earlier, more = sample_result(), sample_result(settings={"options": {"ablation": {"tokens": 8}}})
    check_same_run(earlier, more.identity(), ["downstream", "ablation"], "r.json")


def test_a_metric_is_found_by_its_path_or_the_ones_there_are_named() -> None:
    result = sample_result()
    assert result.metric("downstream.ce_clean").value == 2.9143
    with pytest.raises(SaebenchError, match=r"no metric 'downstream\.l0'; it has: reconstruction\.normalised_mse, "):
        result.metric("downstream.l0")


def test_the_published_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), f'renew it with: python -c "{RENEW}"'


def test_the_schema_knows_every_field_and_no_others() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Result.model_fields)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    objects = [schema, *schema["$defs"].values()]
    assert all(each["additionalProperties"] is False for each in objects)
    assert {
        "Metric",
        "EvaluatorResult",
        "SaeRecord",
        "ModelRecord",
        "CorpusRecord",
        "Environment",
        "Reached",
        "Source",
    } == set(schema["$defs"])


def test_a_table_has_a_row_for_each_metric_of_each_autoencoder() -> None:
    one, other = sample_result("one"), sample_result("other", scale=2.0)
    frame = to_frame([one, other])
    expected = sum(len(found.metrics) for result in (one, other) for found in result.evaluators.values())
    assert len(frame) == expected
    row = frame[(frame.sae == "other") & (frame.metric == "normalised_mse")].iloc[0]
    assert (row.evaluator, row.value, row.standard_error, row.n, row.direction) == (
        "reconstruction",
        2 * 0.1834,
        0.0021,
        TOKENS,
        "lower",
    )
    undefined = frame[(frame.sae == "one") & (frame.metric == "relative_compute")].iloc[0]
    assert undefined.value != undefined.value  # NaN is pandas's word for missing
    assert undefined.reason.startswith("no scaling law")
    assert to_frame([]).columns.tolist() == frame.columns.tolist()


def test_a_scorecard_gives_numbers_tables_and_files(tmp_path: Path) -> None:
    card = Scorecard(sample_result())
    assert card["reconstruction.l0"] == 32.0
    assert card["downstream.relative_compute"] is None
    assert card.metric("downstream.ce_clean").standard_error == 0.0312
    assert card.frame().loc[("downstream", "ce_clean"), "value"] == 2.9143
    assert "0.1834 ± 0.0021" in repr(card)
    assert "0.1834 ± 0.0021" in card._repr_html_()
    card.save(tmp_path / "card.json")
    assert read_result(tmp_path / "card.json") == card.result


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_free_form_data_is_finite_too(bad: float) -> None:
    with pytest.raises(ValidationError, match="JSON cannot represent"):
        evaluator("e", [], {"curve": [1.0, {"deep": bad}]})
    with pytest.raises(ValidationError, match="JSON cannot represent"):
        sample_result(settings={"rate": bad})


def test_a_number_in_free_form_data_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path / "bad.json")
    path.write_text(path.read_text().replace('"options": {}', '"rate": 1e999'))
    (problem,) = validate(path)
    assert problem.startswith("settings: ") and "JSON cannot represent" in problem


def test_files_hold_numbers_not_text_that_looks_like_them(tmp_path: Path) -> None:
    assert validate(changed(tmp_path / "bad.json", seed="0")) == ["seed: Input should be a valid integer."]
    assert "schema_version is True" in validate(changed(tmp_path / "bad.json", schema_version=True))[0]


def test_metric_keys_are_their_names_and_errors_are_valid() -> None:
    good = metric("m", 1.0)
    with pytest.raises(ValidationError, match="other keys than their names"):
        EvaluatorResult(name="e", version=1, metrics={"other": good}, duration_seconds=0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        metric("m", 1.0, -0.1)
    with pytest.raises(ValidationError, match="the interval ends before it begins"):
        metric("m", 1.0, interval=(2.0, 1.0))


def test_a_record_has_no_folders_of_a_machine(make_sae: Callable[..., SparseAutoencoder], tmp_path: Path) -> None:
    config = {"corpus": "/home/someone/texts/train.jsonl", "model": "smollm2", "lr": 0.1}
    sae = make_sae()
    sae = replace(sae, info=replace(sae.info, origin=str(tmp_path), training={"config": config, "steps": 3}))
    record = sae_record(sae, None)
    assert record.training == {"config": {"corpus": "texts/train.jsonl", "model": "smollm2", "lr": 0.1}, "steps": 3}
    assert record.origin == f"{tmp_path.parent.name}/{tmp_path.name}"
    assert portable_name("owner/name") == "owner/name" and portable_name("/nowhere/a/b.jsonl") == "a/b.jsonl"
