"""The site's files: what is written, what is refused, and that nothing of a submission becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from saebench.comparison.ranks import ranks
from saebench.errors import SaebenchError
from saebench.leaderboard.benchmark import EvaluatorRule, read_benchmark, settings_hash, to_toml
from saebench.leaderboard.board_page import BOARD_PAGE, SAEBENCH, _bands, _heading, panel, rank_table
from saebench.leaderboard.checks import load_boards
from saebench.leaderboard.rows import Row, table_data
from saebench.leaderboard.saebench_export import SHAPES
from saebench.leaderboard.site import build, render_index
from saebench.report.content import format_value
from saebench.report.figures import densities, positions
from tests.leaderboard.samples import FOLDER, entry_result, submission, with_core, write_board
from tests.sample_results import evaluator, metric, sample_result

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_every_entry_gets_a_page_and_its_file(tmp_path: Path) -> None:
    root = write_board(tmp_path / "boards", [submission("one"), submission("two", entry_result(1, 16))]).parents[1]
    assert build(root, tmp_path / "site") == 2
    pages = sorted(path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*"))
    assert [page for page in pages if page.endswith(("html", "json"))] == [
        "index.html", f"{FOLDER}/board.html", f"{FOLDER}/one.html", f"{FOLDER}/one.json", f"{FOLDER}/two.html",
        f"{FOLDER}/two.json",
    ]  # fmt: skip
    text = (tmp_path / "site" / FOLDER / "one.html").read_text()
    assert 'href="../../index.html"' in text
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.read_text()), "a page fetches nothing"


def test_what_would_not_pass_the_check_is_not_built(tmp_path: Path) -> None:
    root = write_board(tmp_path / "boards", [submission("bad", entry_result(seed=9))]).parents[1]
    with pytest.raises(SaebenchError, match=r"bad\.json: seed is 9, the benchmark's is 0\."):
        build(root, tmp_path / "site")
    assert not (tmp_path / "site").exists()
    (root / FOLDER / "bad.json").unlink()
    with pytest.raises(SaebenchError, match="There are no entries"):
        build(root, tmp_path / "site")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    root = write_board(tmp_path / "boards", [submission()]).parents[1]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("precious")
    with pytest.raises(SaebenchError, match="holds other files than a site"):
        build(root, tmp_path / "site")
    assert (tmp_path / "site" / "mine.txt").read_text() == "precious"
    (tmp_path / "site" / "mine.txt").unlink()
    build(root, tmp_path / "site")
    (tmp_path / "site" / "old.html").write_text("from an earlier build")
    build(root, tmp_path / "site")
    assert not (tmp_path / "site" / "old.html").exists()


def test_script_in_a_submission_is_text_on_every_page(tmp_path: Path) -> None:
    given = {"origin": HOSTILE, "licence": HOSTILE, "contact": HOSTILE, "command": HOSTILE}
    result = entry_result(architecture=HOSTILE)
    training = result.sae.model_copy(update={"training": {HOSTILE: HOSTILE}, "origin": HOSTILE})
    entry = submission("entry", result.model_copy(update={"sae": training}), **given)
    root = write_board(tmp_path / "boards", [entry]).parents[1]
    build(root, tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert "<script>alert" not in text and "<img" not in text
    assert "&lt;script&gt;alert(1)" in (tmp_path / "site" / FOLDER / "entry.html").read_text()


def test_the_table_holds_every_number_with_its_error_in_columns() -> None:
    rows = [Row("a", "a.html", 0, "topk", 64, sample_result().evaluators), Row("b", "b.html", 0, "relu", 32, {})]
    data = table_data(rows, [{"model": "m", "hook": "h", "title": "t"}])
    paths = [each["path"] for each in data["metrics"]]
    assert "reconstruction.l0" not in paths and data["rows"]["l0"] == [32.0, None]
    index = paths.index("reconstruction.normalised_mse")
    assert data["values"][index] == [0.1834, None] and data["errors"][index] == [0.0021, None]
    agreement = data["errors"][paths.index("downstream.top1_agreement")][0]
    assert agreement == 0.0026
    assert data["headline"][:2] == ["reconstruction.normalised_mse", "downstream.ce_difference"]


def test_the_index_holds_its_data_as_json() -> None:
    row = Row(HOSTILE, "a.html", 0, HOSTILE, 1, {HOSTILE: evaluator(HOSTILE, [metric(HOSTILE, 1.0, description=HOSTILE)])})
    page = render_index([row], [{"model": HOSTILE, "hook": HOSTILE, "title": HOSTILE, "facts": [(HOSTILE, HOSTILE)]}])
    assert page.count("<script>") == 1 and "<img" not in page
    data = json.loads(page.partition("const DATA = ")[2].partition(";\n")[0])
    assert data["rows"]["name"] == [HOSTILE] and data["metrics"][0]["name"] == HOSTILE


def test_the_page_of_an_entry_draws_its_figures_with_the_shared_script(tmp_path: Path) -> None:
    root = write_board(tmp_path / "boards", [submission("one")]).parents[1]
    build(root, tmp_path / "site")
    page = (tmp_path / "site" / FOLDER / "one.html").read_text()
    assert '<script src="../../plotly.min.js"></script>' in page and len(page) < 200_000
    assert (tmp_path / "site" / "plotly.min.js").stat().st_size > 1_000_000
    figures = json.loads(page.partition("const FIGURES = ")[2].partition(";\n")[0])
    result = entry_result()
    expected = [densities([result]), positions([result])]
    assert [each["id"] for each in figures] == [each.key for each in expected if each is not None]
    for drawn, figure in zip(figures, filter(None, expected), strict=True):
        assert drawn["traces"] == figure.traces and f'id="plot-{figure.key}"' in page
        assert all(row[0] in page for row in figure.rows)  # the same numbers in a table


def test_controls_of_several_widths_have_a_band_each() -> None:
    narrow, wide = entry_result(1, 16, "topk"), entry_result(2, 16, "topk")
    path = "reconstruction.normalised_mse"
    assert set(_bands([narrow, narrow], path)) == set(narrow.controls)
    wide = wide.model_copy(update={"sae": wide.sae.model_copy(update={"n_latents": 2 * narrow.sae.n_latents})})
    sizes = (narrow.sae.n_latents, wide.sae.n_latents)
    bands = _bands([narrow, wide], path)
    assert set(bands) == {f"{control}, n = {n:,}" for control in narrow.controls for n in sizes}
    assert all(len(points) == 1 for points in bands.values())


def test_the_page_of_a_board_has_frontiers_panels_with_bands_and_ranks_with_ties(tmp_path: Path) -> None:
    entries = [
        submission(f"{arch}-{k}", entry_result(n + k, k, arch))
        for n, arch in ((0, "topk"), (100, "gated"))
        for k in (16, 32)
    ]
    frozen = entry_result(500, 32, "topk")
    sae = frozen.sae.model_copy(update={"training": {"control": "frozen decoder"}})
    root = write_board(
        tmp_path / "boards", [*entries, submission("frozen", frozen.model_copy(update={"sae": sae}))]
    ).parents[1]
    build(root, tmp_path / "site")
    (board,) = load_boards(root)
    text = (tmp_path / "site" / FOLDER / BOARD_PAGE).read_text()
    assert f'href="{FOLDER}/{BOARD_PAGE}"' in (tmp_path / "site" / "index.html").read_text()
    assert "normalised_mse over L0" in text and "control: random" in text and "topk, frozen decoder" in text
    results = [each.result for each in board.submissions.values()]
    names = list(board.submissions)
    path = "reconstruction.normalised_mse"
    table = rank_table(results, [each.stem for each in names], [path], [path])
    ranked = {row[0][0]: row[4][0].partition("(")[2] for row in table.rows}
    assert ranked == {"topk-16": "3)", "gated-16": "3)", "topk-32": "1)", "gated-32": "1)", "frozen": ""}
    assert all("(" not in row[4][0] for row in rank_table(results, [each.stem for each in names], [path], []).rows)
    figure = panel(results, [each.stem for each in names], path, 0)
    band = next(trace for trace in figure.traces if trace.get("fill") == "tonexty")
    control = results[0].controls["random"]["reconstruction"].metrics["normalised_mse"]
    assert control.value is not None and max(band["y"]) == pytest.approx(
        control.value + 1.96 * (control.standard_error or 0), rel=1e-3
    )


def test_the_evaluations_of_saebench_have_a_table_of_the_entries_that_have_them(tmp_path: Path) -> None:
    results = [with_core(entry_result(1)), entry_result(2, 16), with_core(entry_result(3, 64))]
    entries = [submission(name, result) for name, result in zip(("one", "two", "three"), results, strict=True)]
    folder = write_board(tmp_path / "boards", entries, of=entry_result())
    rule = EvaluatorRule(version=1, settings=settings_hash(results[0], "core"), required=False, controls=())
    benchmark = read_benchmark(folder)
    evaluators = {**benchmark.evaluators, "core": rule}
    (folder / "benchmark.toml").write_text(to_toml(benchmark.model_copy(update={"evaluators": evaluators})))
    build(folder.parents[1], tmp_path / "site")
    page = (tmp_path / "site" / FOLDER / BOARD_PAGE).read_text()
    first, _, second = page.partition("<h2>SAEBench")
    table = second.partition("</table>")[0]
    assert re.findall(r'<th scope="row">([^<]*)</th>', table) == ["one", "three"]
    assert '<th scope="colgroup" colspan="2" class="group">core</th>' in table and "ce_<wbr>loss_<wbr>score ↑" in table
    assert "ce_<wbr>loss_<wbr>score" not in first and '"panel-' in page and "core.ce_loss_score" in second
    score = results[0].evaluators["core"].metrics["ce_loss_score"]
    assert f">{format_value(score)}" in table
    assert "core" in (tmp_path / "site" / FOLDER / "one.html").read_text()
    assert "random; for core: none" in (tmp_path / "site" / "index.html").read_text()


def test_a_board_without_them_has_one_table(tmp_path: Path) -> None:
    root = write_board(tmp_path / "boards", [submission("one")]).parents[1]
    build(root, tmp_path / "site")
    page = (tmp_path / "site" / FOLDER / BOARD_PAGE).read_text()
    assert page.count('<table class="metrics compared">') == 1 and "SAEBench" not in page


def test_names_of_saebench_come_from_its_shapes() -> None:
    assert _heading("absorption.full_absorption", metric("full_absorption", 0.1, direction="lower")).startswith(
        "mean_full_absorption_score ↓"
    )
    assert {path.partition(".")[0] for path in SAEBENCH} == set(SHAPES)


def test_ranks_are_those_of_every_pair_tested_by_hand() -> None:
    """Errors stated alone: z tests of all pairs, corrected; the two middle ones are not separated."""
    made = []
    for value in (0.1, 0.2, 0.204, 0.3):
        found = evaluator("reconstruction", [metric("normalised_mse", value, 0.002, direction="lower")])
        made.append(sample_result().model_copy(update={"evaluators": {"reconstruction": found}}))
    assert ranks(made, "reconstruction.normalised_mse") == [1, 2, 2, 4]
    assert ranks(made, "reconstruction.absent") == [None] * 4
