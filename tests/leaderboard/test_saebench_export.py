"""Results in SAEBench's shapes: its fields are there, and an import gives the same numbers back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import saebench
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.leaderboard.imported import import_saebench
from saebench.leaderboard.saebench_export import SHAPES, export_saebench
from saebench.lm import LanguageModel
from saebench.results import Result
from saebench.results.metrics import metric
from saebench.results.schema import EvaluatorResult
from saebench.results.statistics import Estimate
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

#: Top-level fields that the schemas of SAEBench 0.6 require of every evaluation.
REQUIRED = {
    "eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics", "sae_bench_commit_hash",
    "sae_lens_id", "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict",
}  # fmt: skip
#: Metrics of the core schema, by group.
CORE_FIELDS = {
    "model_behavior_preservation": 3, "model_performance_preservation": 4, "reconstruction_quality": 4, "shrinkage": 4,
    "sparsity": 2, "token_stats": 2, "misc_metrics": 7,
}  # fmt: skip


@pytest.fixture
def result(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]) -> Result:
    return saebench.evaluate(make_sae(), model=tiny_model, hook=HOOK, corpus=tiny_corpus, evaluators=["core"]).result


def test_core_goes_out_and_comes_back(result: Result, tmp_path: Path) -> None:
    (path,), left_out = export_saebench({"my sae": result}, tmp_path)
    assert path == tmp_path / "core" / "my-sae_custom_sae_eval_results.json" and not left_out
    data = json.loads(path.read_text())
    assert data.keys() >= REQUIRED
    assert {group: len(fields) for group, fields in data["eval_result_metrics"].items()} == CORE_FIELDS
    metrics = result.evaluators["core"].metrics
    quality = data["eval_result_metrics"]["reconstruction_quality"]
    assert quality["explained_variance"] == metrics["explained_variance_saebench"].value
    assert quality["explained_variance_legacy"] == -1.0
    entries, problems = import_saebench([path], model="tiny")
    assert not problems
    (entry,) = entries
    assert (entry.sae.d_in, entry.sae.n_latents, entry.sae.hook) == (32, 64, HOOK)
    back = entry.evaluators["saebench_core"].metrics
    own = {name: each for fields in SHAPES["core"].groups.values() for name, each in fields.items()}
    named = {name.rpartition(".")[2]: each.value for name, each in back.items()}
    for field, name in own.items():
        if name:
            assert named[field] == metrics[name].value, field
    assert "explained_variance_legacy" not in named


def measured(result: Result, name: str, values: dict[str, float | None]) -> Result:
    made = {
        key: metric(
            key, Estimate(value, 0.1), unit="1", direction="higher", n=25, reason=None if value else "too few letters"
        )
        for key, value in values.items()
    }
    found = EvaluatorResult(name=name, version=1, metrics=made, duration_seconds=0.0)
    return result.model_copy(update={"evaluators": {name: found}})


def test_deviations_over_letters_and_what_is_undefined(result: Result, tmp_path: Path) -> None:
    values = {"absorption_fraction": 0.2, "full_absorption": 0.1, "main_latents": 1.5}
    (path,), _ = export_saebench({"a": measured(result, "absorption", values)}, tmp_path)
    group = json.loads(path.read_text())["eval_result_metrics"]["mean"]
    assert group["mean_absorption_fraction_score"] == 0.2
    assert group["std_dev_absorption_fraction_score"] == pytest.approx(0.5)  # 0.1 times the root of 25 letters
    assert set(group) == {f"{kind}_{name}" for kind in ("mean", "std_dev") for name in
                          ("absorption_fraction_score", "full_absorption_score", "num_split_features")}  # fmt: skip
    undefined = measured(result, "absorption", values | {"full_absorption": None})
    with pytest.raises(SaebenchError, match="full_absorption is undefined, because too few letters"):
        export_saebench({"a": undefined}, tmp_path)


def test_the_command(result: Result, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(result.model_dump_json())
    done = CliRunner().invoke(app, ["export", str(tmp_path / "one.json"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/core/one_custom_sae_eval_results.json").is_file()
    other = measured(result, "dictionary", {"x": 1.0})
    with pytest.raises(SaebenchError, match="they have none of core, sparse_probing"):
        export_saebench({"a": other}, tmp_path)
