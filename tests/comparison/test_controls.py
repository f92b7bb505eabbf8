"""Trained autoencoders against controls: paired differences, their p values, and the correction for many tests."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_1samp, ttest_rel
from typer.testing import CliRunner

from saebench.cli import app
from saebench.comparison.controls import against_controls, control_frame, control_result, holm, summary_frame
from saebench.comparison.verdicts import compare_metric
from saebench.errors import SaebenchError
from saebench.results import EvaluatorResult, Result, write_result
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate


def test_a_paired_p_value_is_that_of_the_t_test_by_row(real_result: Result) -> None:
    """Where all rows hold equally many tokens, the ratio estimator is a mean over rows."""
    rows = real_result.evaluators["reconstruction"].details["by_row"]
    its = real_result.controls["random"]["reconstruction"].details["by_row"]
    full = [each for each in range(len(rows["tokens"])) if rows["tokens"][each] == max(rows["tokens"])]
    cut = {name: [values[each] for each in full] for name, values in rows.items() if isinstance(values, list)}
    cut_its = {name: [values[each] for each in full] for name, values in its.items() if isinstance(values, list)}

    def with_rows(table: dict[str, list[float]]) -> Result:
        value = sum(table["cosine"]) / sum(table["tokens"])
        made = metric("cosine_similarity", Estimate(value, 1.0), unit="1", direction="higher", n=1)
        found = EvaluatorResult(
            name="reconstruction", version=1, metrics={made.name: made}, duration_seconds=0,
            details={"by_row": {**table, "rows_per_group": 1}},
        )  # fmt: skip
        return real_result.model_copy(update={"evaluators": {"reconstruction": found}})

    verdict = compare_metric(with_rows(cut_its), with_rows(cut), "reconstruction.cosine_similarity")
    assert verdict is not None and verdict.paired == "rows of text"
    expected = ttest_rel(cut["cosine"], cut_its["cosine"])
    assert verdict.p == pytest.approx(float(expected.pvalue), rel=1e-6)


def test_probing_is_paired_by_task(real_result: Result) -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(2, 9, generator=generator, dtype=torch.float64).tolist()

    def probed(values: list[float]) -> Result:
        made = metric("probe_loss", Estimate(sum(values) / 9, None), unit="nats", direction="lower", n=9, n_unit="tasks")
        tasks = {f"task {index}": {"best_latent": {"train_loss": value}} for index, value in enumerate(values)}
        found = EvaluatorResult(
            name="probe_loss", version=1, metrics={made.name: made}, duration_seconds=0, details={"tasks": tasks}
        )
        return real_result.model_copy(update={"evaluators": {"probe_loss": found}})

    verdict = compare_metric(probed(losses[0]), probed(losses[1]), "probe_loss.probe_loss")
    assert verdict is not None and verdict.paired == "tasks"
    changes = [after - before for before, after in zip(*losses, strict=True)]
    assert verdict.p == pytest.approx(float(ttest_1samp(changes, 0).pvalue), rel=1e-9)
    assert verdict.error == pytest.approx(float(torch.tensor(changes).std()) / 3, rel=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.5]) == pytest.approx([0.04, None, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


def test_every_headline_metric_is_compared_with_each_control(tiny_results: dict[int, Result]) -> None:
    results = list(tiny_results.values())
    found = against_controls(results, ["a", "b", "c", "d"])
    frame = control_frame(found)
    assert set(frame["control"]) == {"random", "pca"}
    assert {"reconstruction.normalised_mse", "downstream.kl_divergence", "ablation.sparsity"} <= set(frame["metric"])
    assert (frame["paired_by"] == "rows of text").all()
    assert len(frame) == 4 * 2 * frame["metric"].nunique()
    one = found[0]
    direct = compare_metric(control_result(results[0], one.control), results[0], one.verdict.metric)
    assert direct is not None and direct.difference == one.verdict.difference
    assert all(math.isclose(each.corrected or 0, p or 0) for each, p in
               zip(found, holm([each.verdict.p for each in found]), strict=True))  # fmt: skip
    counts = summary_frame(found)
    assert (counts[["better", "not separated", "worse", "unknown"]].sum(axis=1) == 4).all()


def test_trained_controls_are_matched_by_width_and_l0(tiny_results: dict[int, Result]) -> None:
    frozen = tiny_results[8]
    sae = frozen.sae.model_copy(update={"training": {"control": "frozen decoder"}})
    frozen = frozen.model_copy(update={"sae": sae, "controls": {}})
    results = [each.model_copy(update={"controls": {}}) for each in tiny_results.values()]
    found = against_controls([*results, frozen], ["k2", "k4", "k8", "k16", "frozen"])
    assert {(each.name, each.control) for each in found} == {("k8", "frozen decoder")}
    assert {each.verdict.difference for each in found} == {0.0}
    with pytest.raises(SaebenchError, match="No result has controls"):
        against_controls(results, ["k2", "k4", "k8", "k16"])


def test_the_command(tiny_results: dict[int, Result], tmp_path: Path) -> None:
    files = []
    for k, result in tiny_results.items():
        files.append(str(tmp_path / f"{k}.json"))
        write_result(result, files[-1])
    table = CliRunner().invoke(app, ["compare", *files, "--against-controls", "--format", "markdown"])
    assert table.exit_code == 0 and "| reconstruction.normalised_mse | random | 4 |" in table.output
    shown = CliRunner().invoke(app, ["compare", *files, "--against-controls"], env={"COLUMNS": "80"})
    assert "Against random" in shown.output
    assert "largest p holm" in shown.output  # in a second table, since it does not fit
    assert "…" not in shown.output
    csv = CliRunner().invoke(app, ["compare", *files, "--against-controls", "--format", "csv", "--metric", "normalised_mse"])
    assert len(csv.output.strip().splitlines()) == 1 + 4 * 2
