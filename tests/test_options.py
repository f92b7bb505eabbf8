from __future__ import annotations

import pytest

from saebench.errors import SaebenchError
from saebench.options import read_options


def test_values_are_json_or_text() -> None:
    given = [
        "explainability.latents=32",
        "explainability.baselines=unigram,random",
        "a.only=[1, 2]",
        "a.losses=false",
        "a.x=a=b",
    ]
    assert read_options(given) == {
        "explainability": {"latents": 32, "baselines": "unigram,random"},
        "a": {"only": [1, 2], "losses": False, "x": "a=b"},
    }


@pytest.mark.parametrize("setting", ["latents=3", "a.b", ".b=1", "a.=1", ""])
def test_other_things_are_refused(setting: str) -> None:
    with pytest.raises(SaebenchError, match=r"evaluator\.name=value"):
        read_options([setting])
