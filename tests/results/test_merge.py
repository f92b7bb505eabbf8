"""Results of one autoencoder as one: what is kept of each, and every refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from saebench.cli import app
from saebench.comparison.benchmark import require_one_benchmark
from saebench.errors import SaebenchError
from saebench.report.content import provenance
from saebench.results import Result, check_same_run, merged, read_result, write_result
from tests.sample_results import evaluator, metric, sample_result

PCA = {"seed": 0, "n_latents": 32, "l0": 32}
RANDOM = {"seed": 0, "n_latents": 9216, "l0": 32}


def standard(**changes: Any) -> Result:
    """Of a suite with two controls."""
    base = sample_result()
    base = base.model_copy(update={"controls": {"random": base.evaluators, "pca": base.evaluators}})
    sae = base.sae.model_copy(update={"weights_sha256": "ab" * 32})
    settings = {"suite": "standard 2 (x)", "options": {"downstream": {"a": 1}, "gone": {}}, "controls": {"random": RANDOM}}
    made = {"sae": sae, "settings": settings, "definitions": {"probes/a": "1"}, "stages": {"tokenising": 1.5}}
    return base.model_copy(update={**made, "created": "2026-01-02", "notices": ["n"], **changes})


def other(**changes: Any) -> Result:
    """Of another suite on the same autoencoder."""
    core = {"core": evaluator("core", [metric("l0", 31.0)])}
    settings = {"suite": "saebench 3 (y)", "options": {"core": {"b": 2}}, "controls": {"random": RANDOM}}
    made = {"evaluators": core, "controls": {"random": core}, "settings": settings, "definitions": {"probes/b": "2"}}
    more = {"stages": {"tokenising": 1.0, "core": 2.0}, "notices": ["n", "m"], "created": "2026-01-03"}
    return standard(**{**made, **more, **changes})


def test_every_evaluator_keeps_its_numbers_controls_options_and_origin() -> None:
    one, two = standard(), other(complete=False)
    found = merged({"a.json": one, "b.json": two})
    assert found.evaluators == {**one.evaluators, **two.evaluators}
    assert found.controls == {name: {**its, **two.controls.get(name, {})} for name, its in one.controls.items()}
    assert found.settings == {"options": {"downstream": {"a": 1}, "core": {"b": 2}}, "controls": {"random": RANDOM}}
    assert found.definitions == {"probes/a": "1", "probes/b": "2"}
    assert found.stages == {"tokenising": 2.5, "core": 2.0} and found.notices == ["n", "m"]
    assert found.created == "2026-01-03" and not found.complete and merged({"a": one, "b": other()}).complete
    assert [(run.suite, run.created, run.evaluators) for run in found.sources] == [
        ("standard 2 (x)", "2026-01-02", tuple(one.evaluators)),
        ("saebench 3 (y)", "2026-01-03", ("core",)),
    ]
    shown = provenance(found)
    assert [value for name, value in shown if name == "Suite"] == ["standard 2 (x)", "saebench 3 (y)"]
    assert ("Evaluators", "core") in shown and not any(name == "Evaluators" for name, _ in provenance(one))


def test_three_results_merge_in_any_grouping() -> None:
    third = other(evaluators={"tpp": evaluator("tpp", [metric("x", 1.0)])}, controls={}, settings={"options": {}})
    together = merged({"a": standard(), "b": other(), "c": third})
    assert merged({"ab": merged({"a": standard(), "b": other()}), "c": third}) == together
    assert together.sources[2].suite is None


def test_merged_results_are_compared_with_their_parts() -> None:
    both = merged({"a": standard(), "b": other()})
    assert require_one_benchmark([both, standard()], force=False) == []
    assert require_one_benchmark([both, other()], force=False) == []
    with pytest.raises(SaebenchError, match=r"differ in evaluators\.core\.settings"):
        again = other(settings={"options": {"core": {"b": 3}}})
        require_one_benchmark([both, merged({"a": standard(), "b": again})], force=False)


def part(result: Result, name: str, **changes: Any) -> Result:
    return result.model_copy(update={name: getattr(result, name).model_copy(update=changes)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: part(r, "sae", weights_sha256="cd" * 32), r"cannot be merged: they differ in sae.weights_sha256\.$"),
        (lambda r: part(r, "sae", activation={"name": "topk", "k": 8}), r"they differ in sae.activation\.$"),
        (lambda r: part(r, "sae", hook_in="x", hook_out="y"), r"they differ in sae.hook_in, sae.hook_out\.$"),
        (lambda r: part(r, "model", dtype="bfloat16"), r"they differ in model\.$"),
        (lambda r: part(r, "corpus", sha256="0" * 64), r"they differ in corpus.sha256\.$"),
        (lambda r: r.model_copy(update={"seed": 9}), r"they differ in seed\.$"),
        (lambda r: r.model_copy(update={"definitions": {"probes/a": "3"}}), r"they differ in definitions.probes/a\.$"),
        (
            lambda r: r.model_copy(update={"settings": {**r.settings, "controls": {"random": PCA}}}),
            r"they differ in settings.controls.random\.$",
        ),
        (
            lambda r: r.model_copy(update={"evaluators": standard().evaluators}),
            r"a and b both have downstream, reconstruction: an evaluator can come from one result only\.$",
        ),
        (
            lambda r: r.model_copy(update={"controls": {"pca": standard().controls["random"]}}),
            r"a and b both have downstream, reconstruction",
        ),
        (lambda r: part(r, "sae", weights_sha256=None), r"^b does not hold the hash of the autoencoder's weights"),
    ],
)
def test_what_is_not_of_one_evaluation_is_refused(change: Callable[[Result], Result], words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        merged({"a": standard(), "b": change(other())})


def test_the_command_writes_a_result_and_refuses_its_own_inputs(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.json", "b.json", "new/out.json")]
    write_result(standard(), paths[0])
    write_result(other(), paths[1])
    done = CliRunner().invoke(app, ["merge", *paths[:2], "--out", paths[2]])
    assert done.exit_code == 0 and "3 evaluators of 2 results" in " ".join(done.output.split())
    assert read_result(paths[2]) == merged({"a": standard(), "b": other()})
    shutil.copy(paths[0], tmp_path / "copy.json")
    for files, out, words in (
        (paths[:2], paths[1], "is one of the results to merge: give another file with --out"),
        (paths[:1], paths[2], "Merging needs two results or more, in different files"),
        ([paths[0]] * 2, paths[2], "Merging needs two results or more, in different files"),
        ([paths[0], str(tmp_path / "copy.json")], paths[2], "both have"),
        ([paths[0], str(tmp_path / "none.json")], paths[2], "is not a valid result file: it cannot be read"),
    ):
        refused = CliRunner().invoke(app, ["merge", *files, "--out", out])
        assert isinstance(refused.exception, SaebenchError) and words in str(refused.exception)


def test_a_merged_result_is_not_resumed_and_names_every_evaluator_once() -> None:
    both = merged({"a": standard(), "b": other()})
    with pytest.raises(SaebenchError, match=r"x\.json is merged from several results: resume those, and merge them again"):
        check_same_run(both, both.identity(), both.evaluators, "x.json")
    for runs in (both.sources[:1], [*both.sources, both.sources[1]]):
        data = both.model_copy(update={"sources": runs}).model_dump_json()
        with pytest.raises(ValidationError, match="sources must name every evaluator once"):
            Result.model_validate_json(data)
