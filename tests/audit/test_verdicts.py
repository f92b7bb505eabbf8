"""Where verdicts are shown: they are read from the package's data file."""

import json

import pytest

from saebench import api
from saebench.report.content import cautions
from saebench.results import Result, verdicts
from saebench.results.verdicts import Verdict, failed_of, sound_metrics, verdict_of
from tests.test_docs import ROOT

FAILED = Verdict("downstream.kl_divergence", "not evidence", "floors", "Not separated from random.")
SOUND = Verdict("reconstruction.normalised_mse", "sound", "", "Passed every required lens.")

ENTRY = ROOT / "leaderboards/smollm2/blocks.15.hook_resid_post/topk-n4096-l0-32.json"


@pytest.fixture
def two_verdicts(monkeypatch):
    monkeypatch.setattr(verdicts, "carried", lambda: {each.metric: each for each in (FAILED, SOUND)})


def test_verdicts_by_metric(two_verdicts):
    assert verdict_of("downstream", "kl_divergence") == FAILED
    assert verdict_of("downstream", "ce_difference") is None
    assert (failed_of("downstream"), failed_of("reconstruction")) == ([FAILED], [])
    assert sound_metrics() == ["reconstruction.normalised_mse"]


def test_scorecards_say_which_metrics_failed(two_verdicts):
    result = Result.model_validate(json.loads(ENTRY.read_text())["result"])
    assert cautions(result) == ["✗ downstream.kl_divergence: not evidence. Not separated from random."]


def test_evaluate_warns_of_a_failed_headline_metric(two_verdicts, monkeypatch):
    said = []
    monkeypatch.setattr(api, "notice", said.append)
    api._warn_of_failed(["reconstruction", "downstream"])
    assert said == ["downstream.kl_divergence is not evidence of an autoencoder's quality. Not separated from random."]


def test_the_carried_file_is_well_formed():
    for path, verdict in verdicts.carried().items():
        assert path == verdict.metric and verdict.mark and verdict.sentence
