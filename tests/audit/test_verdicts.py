"""Where verdicts are shown: they are read from the package's data file."""

import json
import re

import pytest

from saebench import api
from saebench.comparison.compare import compare
from saebench.comparison.headline import trained_control
from saebench.leaderboard.board_page import render_board
from saebench.leaderboard.checks import load_boards
from saebench.report.content import cautions
from saebench.report.metric_table import scorecard_table, side_by_side_table
from saebench.report.page import render_page
from saebench.results import Result, verdicts
from saebench.results.verdicts import Verdict, failed_of, mark_of, sound_metrics
from tests.test_docs import ROOT

FAILED = Verdict("downstream.kl_divergence", "not evidence", "floors", "Not separated from random.")
SOUND = Verdict("reconstruction.normalised_mse", "sound", "", "Passed every required lens.")

ENTRY = ROOT / "leaderboards/smollm2/blocks.15.hook_resid_post/topk-n4096-l0-32.json"


@pytest.fixture
def two_verdicts(monkeypatch):
    monkeypatch.setattr(verdicts, "carried", lambda: {each.metric: each for each in (FAILED, SOUND)})


def test_verdicts_by_metric(two_verdicts):
    assert mark_of(FAILED.metric) == " ‡"
    assert mark_of(SOUND.metric) == mark_of("downstream.ce_difference") == ""
    assert (failed_of("downstream"), failed_of("reconstruction")) == ([FAILED], [])
    assert sound_metrics() == ["reconstruction.normalised_mse"]


def test_scorecards_say_which_metrics_failed(two_verdicts):
    result = Result.model_validate(json.loads(ENTRY.read_text())["result"])
    assert cautions(result) == ["‡ downstream.kl_divergence: not evidence. Not separated from random."]
    for table in (scorecard_table(result), side_by_side_table([result, result], lambda line: line.value if line else "")):
        marks = {f"{group.name}.{row.name}": row.mark for group in table.groups for row in group.rows}
        assert [name for name, mark in marks.items() if mark] == ["downstream.kl_divergence"]
    assert "<code>kl_divergence</code> ‡" in render_page([result]).replace("<wbr>", "")


def test_boards_and_comparisons_mark_them_and_rank_by_sound_metrics_alone(two_verdicts):
    entries = {path.stem: json.loads(path.read_text()) for path in sorted(ENTRY.parent.glob("*-l0-*.json"))}
    results = [Result.model_validate(entry["result"]) for entry in entries.values()]
    board = next(each for each in load_boards(ROOT / "leaderboards") if each.folder == ENTRY.parent)
    page = render_board(board, "../../index.html", sound_metrics())
    table = page[page.index("Ranks") :].replace("<wbr>", "")
    assert "kl_divergence ↓ ‡" in table and "normalised_mse ↓</th>" in table
    assert "‡ downstream.kl_divergence: not evidence. Not separated from random." in table
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", table)
    ranks = [cell for cell in cells if re.search(r"± [\d.]+ \(\d+\)", cell)]
    assert len(ranks) == sum(not trained_control(each) for each in results)  # of one metric alone
    words = compare(results[:2]).markdown()
    assert "kl_divergence ↓ ‡" in words and "‡ downstream.kl_divergence: not evidence." in words


def test_evaluate_warns_of_a_failed_headline_metric(two_verdicts, monkeypatch):
    said = []
    monkeypatch.setattr(api, "notice", said.append)
    api._warn_of_failed(["reconstruction", "downstream"])
    assert said == ["downstream.kl_divergence is not evidence of an autoencoder's quality. Not separated from random."]


def test_the_carried_file_is_well_formed():
    for path, verdict in verdicts.carried().items():
        assert path == verdict.metric and verdict.mark and verdict.sentence
