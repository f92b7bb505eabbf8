from __future__ import annotations

import pytest

from saebench.errors import SaebenchError
from saebench.evaluators.options import parse_options, read_options


def test_options_are_read_by_evaluator() -> None:
    assert parse_options(
        ["ablation.tokens=64", "ablation.horizon=8", "shrinkage.downstream_rows=2"], ["ablation", "shrinkage"]
    ) == {
        "ablation": {"tokens": 64, "horizon": 8},
        "shrinkage": {"downstream_rows": 2},
    }
    assert read_options("ablation", {"tokens": 64}, {"tokens": 32, "horizon": 16}) == {"tokens": 64, "horizon": 16}


def test_values_are_json_or_text() -> None:
    given = ["explainability.baselines=unigram,random", "a.only=[1, 2]", "a.losses=false", "a.x=a=b"]
    assert parse_options(given, ["explainability", "a"]) == {
        "explainability": {"baselines": "unigram,random"},
        "a": {"only": [1, 2], "losses": False, "x": "a=b"},
    }


@pytest.mark.parametrize("text", ["tokens=3", "ablation.tokens", "ablation.tokens=", "ablation.=3", ".tokens=3", ""])
def test_what_is_no_option_is_said(text: str) -> None:
    with pytest.raises(SaebenchError, match="write it like"):
        parse_options([text], ["ablation"])


def test_an_option_of_an_evaluator_that_is_not_run_is_a_mistake() -> None:
    with pytest.raises(SaebenchError, match="the evaluator ablatoin is not among those to run"):
        parse_options(["ablatoin.tokens=3"], ["ablation"])


def test_options_are_whole_numbers_from_one_on() -> None:
    for value in (0, 1.5, True, "3"):
        with pytest.raises(SaebenchError, match="must be 1 or more"):
            read_options("ablation", {"tokens": value}, {"tokens": 32})
