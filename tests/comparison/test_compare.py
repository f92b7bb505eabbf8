"""Comparisons as a user has them: what is refused, what the tables say, what is interpolated."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas
import pytest
from typer.testing import CliRunner

import saebench
from saebench.cli import app
from saebench.comparison.benchmark import benchmark_identity, differing_fields
from saebench.comparison.frontier import Point, curves, interpolate, points
from saebench.comparison.samples import Sample
from saebench.errors import SaebenchError
from saebench.report.scorecard import Scorecard
from saebench.results import Result, write_result
from tests.leaderboard.samples import stated_result
from tests.sample_results import evaluator, metric, sample_result

MSE = "reconstruction.normalised_mse"
HOSTILE = "<script>alert(1)</script>|[x](javascript:x)\x1b]0;t\x07"


def family() -> list[Result]:
    """TopK at four k and JumpReLU between them, whose error is half as large again."""
    found = [stated_result(index, k) for index, k in enumerate((8, 16, 32, 64))]
    for index, k in enumerate((12, 24, 48)):
        made = stated_result(10 + index, k, "jumprelu")
        reconstruction = made.evaluators["reconstruction"]
        metrics = [each for name, each in reconstruction.metrics.items() if name != "normalised_mse"]
        error = 0.1834 * 16 / k * 1.5
        changed = evaluator("reconstruction", [*metrics, metric("normalised_mse", error, 0.002, direction="lower")])
        found.append(made.model_copy(update={"evaluators": {**made.evaluators, "reconstruction": changed}}))
    return found


def test_results_of_different_benchmarks_are_refused_by_the_fields_that_differ() -> None:
    base = sample_result()
    other = base.model_copy(
        update={"seed": 1, "corpus": base.corpus.model_copy(update={"sha256": "aa" * 32, "context": 64})}
    )
    with pytest.raises(SaebenchError) as refused:
        saebench.compare(base, other)
    words = str(refused.value)
    assert "corpus.sha256 (b7b7b7b7b7b7… / aaaaaaaaaaaa…)" in words and "corpus.context (128 / 64)" in words
    assert "seed (0 / 1)" in words and "--force" in words


def test_forced_comparisons_are_marked_and_get_no_verdict() -> None:
    base = sample_result()
    found = saebench.compare(base, sample_result("other", scale=9.0, seed=3), force=True)
    assert found.differences == ("seed (0 / 3)",)
    verdicts = found.verdicts(1)
    assert {verdict.outcome for verdict in verdicts.values()} == {"unknown"}
    assert "Different benchmarks, not directly comparable: seed (0 / 3)." in found.markdown()
    assert "Different benchmarks" in repr(found) and "✓" not in repr(found)
    assert set(pandas.read_csv(io.StringIO(found.csv())).different_benchmarks) == {"seed (0 / 3)"}


def test_the_autoencoder_itself_is_no_part_of_the_benchmark() -> None:
    assert differing_fields([stated_result(0, 8), stated_result(1, 64, "relu")]) == {}
    identity = benchmark_identity(sample_result())
    assert identity["evaluators.downstream.version"] == 1 and identity["definitions.tasks/sciq.toml"] == "5d" * 32


def test_versions_settings_and_definitions_count_where_both_results_have_them() -> None:
    base = sample_result()
    later = base.evaluators["downstream"].model_copy(update={"version": 2, "settings": {"law": "x"}})
    changed = base.model_copy(
        update={
            "evaluators": {**base.evaluators, "downstream": later, "extra": evaluator("extra", [metric("m", 1.0)])},
            "definitions": {"tasks/sciq.toml": "6e" * 32, "tasks/piqa.toml": "00" * 32},
            "settings": {"options": {"reconstruction": {"bins": 3}, "extra": {"k": 1}}},
        }
    )
    assert sorted(differing_fields([base, changed])) == [
        "definitions.tasks/sciq.toml", "evaluators.downstream.settings", "evaluators.downstream.version",
        "evaluators.reconstruction.settings",
    ]  # fmt: skip


def test_a_model_without_a_hash_is_known_by_its_name() -> None:
    base = sample_result()
    nameless = base.model_copy(update={"model": base.model.model_copy(update={"weights_sha256": None})})
    assert differing_fields([base, nameless]) == {}
    other = base.model_copy(update={"model": base.model.model_copy(update={"weights_sha256": None, "name": "gpt2"})})
    assert list(differing_fields([base, other])) == ["model"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"results": [sample_result()]}, "at least two"),
        ({"results": [sample_result(), sample_result()], "metrics": ["nothing"]}, "No result has a metric 'nothing'"),
        ({"results": [sample_result(), sample_result()], "by": "colour"}, "compared by arch, k, n"),
        ({"results": family(), "at": [0.0]}, "positive numbers"),
    ],
)
def test_bad_requests_are_said_in_a_sentence(given: dict[str, Any], words: str) -> None:
    results = given.pop("results")
    with pytest.raises(SaebenchError, match=words):
        saebench.compare(results, **given).matched()


def test_interpolation_is_linear_in_logarithms() -> None:
    def point(x: float, y: float) -> Point:
        return Point(Sample(x, 0.0), Sample(y, 0.01 * y), sample_result())

    curve = [point(8, 0.4), point(32, 0.1)]
    value, interpolated = interpolate(curve, 16.0) or (None, None)
    assert value is not None and interpolated and value.value == pytest.approx(0.2)  # y = 3.2 / x
    assert value.error == pytest.approx(0.2 * 0.01 * math.hypot(0.5, 0.5))
    exact = interpolate(curve, 8.0)
    assert exact is not None and exact[0].value == 0.4 and not exact[1]
    assert interpolate(curve, 33.0) is None and interpolate(curve, 7.9) is None


def test_an_uncertain_l0_widens_the_error_by_the_slope() -> None:
    low, high = (Point(Sample(x, 0.05 * x), Sample(3.2 / x, 0.0), sample_result()) for x in (8.0, 32.0))
    found = interpolate([low, high], 16.0)
    assert found is not None and found[0].value == pytest.approx(0.2)
    assert found[0].error == pytest.approx(0.2 * 0.05 * math.hypot(0.5, 0.5))  # slope -1 in logarithms


def test_curves_are_compared_at_the_references_own_points_in_the_common_range() -> None:
    found = saebench.compare(family(), metrics=[MSE])
    frame = found.matched_frame()
    assert sorted(set(frame["at"])) == [16.0, 32.0]  # 8 and 64 lie outside of 12 to 48
    jump = frame[frame.group == "jumprelu"].set_index("at")
    assert jump.interpolated.all()
    assert jump.value[16.0] == pytest.approx(0.1834 * 1.5) and jump.value[32.0] == pytest.approx(0.1834 * 0.75)
    assert set(jump.verdict) == {"worse"} and jump.difference[16.0] == pytest.approx(0.1834 * 0.5)
    assert not frame[frame.group == "topk"].interpolated.any()


def test_curves_by_k_run_over_the_number_of_latents() -> None:
    results = []
    for n in (1024, 4096):
        for k in (8, 16):
            made = stated_result(n + k, k)
            results.append(made.model_copy(update={"sae": made.sae.model_copy(update={"n_latents": n})}))
    by_k = curves(results, "k")
    assert [(curve.group, curve.stratum, len(curve.results)) for curve in by_k] == [
        ("k = 8", "topk", 2),
        ("k = 16", "topk", 2),
    ]
    assert [point.x.value for point in points(by_k[0], MSE, "k")] == [1024.0, 4096.0]
    by_n = curves(results, "n")
    assert [curve.name for curve in by_n] == ["n = 1,024, topk", "n = 4,096, topk"]
    frame = saebench.compare(results, by="n", metrics=[MSE], at=[8.0, 12.0]).matched_frame()
    assert set(frame["verdict"].dropna()) == {"within its interval"} and set(frame["at"]) == {8.0, 12.0}


def test_widths_come_in_order_whatever_the_order_of_the_results() -> None:
    results = []
    for n in (1536, 768):
        for kind in ("topk", "jumprelu"):
            made = stated_result(n + len(kind), 8, kind)
            results.append(made.model_copy(update={"sae": made.sae.model_copy(update={"n_latents": n})}))
    frame = saebench.compare(results, metrics=[MSE], at=[8.0]).matched_frame()
    assert frame["stratum"].tolist() == ["n = 768"] * 2 + ["n = 1,536"] * 2
    assert frame["group"].tolist() == ["topk", "jumprelu"] * 2


def test_real_results_are_paired_by_rows_and_more_latents_are_better(tiny_results: dict[int, Result]) -> None:
    found = saebench.compare(tiny_results[2], tiny_results[16])
    verdicts = found.verdicts(1)
    assert verdicts["reconstruction.cosine_similarity"].outcome == "better"
    assert verdicts["downstream.kl_divergence"].outcome == "better"
    unpaired = [path for path, each in verdicts.items() if each.error is not None and each.paired != "rows of text"]
    assert unpaired == ["ablation.sparsity_by_latent"]  # its units, latents, are others in each autoencoder
    alone = math.hypot(*(result.metric("downstream.ce_spliced").standard_error or 0 for result in found.results))
    assert (verdicts["downstream.ce_spliced"].error or 0) < alone
    assert "differences are paired by rows of text" in " ".join(repr(found).split())


def test_tables_name_every_result_and_mark_the_verdicts() -> None:
    found = saebench.compare(Scorecard(sample_result("one")), [sample_result("two", scale=2.0)])
    markdown = found.markdown()
    assert "| one | topk | 9,216 | 32 | 0.1834 ± 0.0021 |" in markdown
    assert "| two | topk | 9,216 | 32 | 0.3668 ± 0.0021 ✗ |" in markdown
    assert "differences are not paired" in markdown
    frame = found.frame()
    row = frame[(frame.sae == "two") & (frame.metric == "normalised_mse")].iloc[0]
    assert row.difference == pytest.approx(0.1834) and row.verdict == "worse"
    assert row.low == pytest.approx(0.3668 - 1.959964 * 0.0021)
    assert pandas.read_csv(io.StringIO(found.csv())).shape == (frame.shape[0], frame.shape[1] + 1)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_numbers_are_whole_at_every_width(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(saebench.compare(family(), metrics=[MSE, "downstream.kl_divergence", "downstream.ce_difference"][::2]))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert "0.3668 ± 0.0021" in text and "…" not in text


def test_repeated_origins_are_numbered() -> None:
    assert saebench.compare(sample_result("a"), sample_result("a", scale=2.0)).names == ("a (1)", "a (2)")


def test_names_do_not_become_markup(tmp_path: Path) -> None:
    found = saebench.compare(sample_result(HOSTILE), sample_result("b"))
    assert "<script>" not in found.markdown() and "](" not in found.markdown()
    assert "\x1b]" not in repr(found)
    found.page(tmp_path / "page.html")
    assert "<script>alert(1)" not in (tmp_path / "page.html").read_text()


def test_the_command_prints_tables_and_writes_a_page(tmp_path: Path) -> None:
    files = []
    for index, result in enumerate(family()):
        write_result(result, tmp_path / f"{index}.json")
        files.append(str(tmp_path / f"{index}.json"))
    runner = CliRunner()
    done = runner.invoke(app, ["compare", *files, "--format", "csv", "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert len(pandas.read_csv(io.StringIO(done.stdout))) > 7 * 10
    page = (tmp_path / "page.html").read_text()
    drawn = json.loads(page.partition("const FIGURES = ")[2].partition(";\n")[0])
    frontier = next(each for each in drawn if each["id"].startswith("frontier"))
    assert [trace["x"] for trace in frontier["traces"]] == [[8, 16, 32, 64], [12, 24, 48]]
    assert frontier["traces"][0]["error_y"]["array"] == pytest.approx([1.959964 * 0.0021] * 4)
    one = runner.invoke(app, ["compare", *files, "--format", "csv", "--metric", MSE])
    assert set(pandas.read_csv(io.StringIO(one.stdout)).metric) == {"normalised_mse"}
    shown = runner.invoke(app, ["compare", *files, "--format", "markdown", "--metric", "kl_divergence", "--metric", "l0"])
    assert isinstance(shown.exception, SaebenchError)  # the results have no KL divergence
    assert isinstance(runner.invoke(app, ["compare", *files, "--at", "x"]).exception, SaebenchError)
    assert runner.invoke(app, ["compare", *files, "--by", "n", "--at", "16,32"]).exit_code == 0
