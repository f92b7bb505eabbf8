"""Verdicts of several planted models: unanimous or with care; audits that are not alike are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saebench.audit.agreement import agreed, agreed_data
from saebench.errors import SaebenchError
from saebench.results.verdicts import Standing, Verdict


def verdict(standing: Standing, lens: str = "") -> Verdict:
    return Verdict("a.b", standing, lens, f"It is {standing}.")


def audit(folder: Path, seed: int, *standings: Standing, **changes: Any) -> Path:
    metrics = [
        {"metric": f"a.m{place}", "verdict": {"metric": f"a.m{place}", "standing": each, "lens": "dose", "sentence": "So."}}
        for place, each in enumerate(standings)
    ]
    data: dict[str, Any] = {
        "saebench": "1", "date": "2026-01-01", "thresholds_sha256": "x", "sees_sha256": "y", "audit": "planted",
        "quick": False, "seed": seed, "tokens": 512, "metrics": metrics,
    }  # fmt: skip
    path = folder / f"seed{seed}-{len(list(folder.glob('*')))}"
    path.mkdir()
    (path / "audit.json").write_text(json.dumps(data | changes))
    return path


def test_what_all_say_stands_and_all_else_is_to_be_used_with_care() -> None:
    for standing in ("sound", "use with care", "not evidence", "not known"):
        assert agreed([verdict(standing), verdict(standing, "dose")]) == verdict(standing)
    for others in (["not evidence", "sound"], ["sound", "not known"], ["not evidence", "use with care", "sound"]):
        found = agreed([verdict(each, "" if each == "sound" else "floors") for each in others])
        assert found.standing == "use with care" and found.lens == "floors"
    assert agreed([verdict("not evidence", "floors"), verdict("sound")]).sentence == (
        "Audits of 2 planted models differ: not evidence (floors), sound."
    )


def test_the_file_holds_every_metric_and_the_seeds(tmp_path: Path) -> None:
    folders = [audit(tmp_path, 0, "sound", "not evidence"), audit(tmp_path, 1, "sound", "sound")]
    found = json.loads(agreed_data(folders))
    assert found["seeds"] == [0, 1] and found["thresholds_sha256"] == "x"
    assert [each["standing"] for each in found["verdicts"]] == ["sound", "use with care"]


def test_audits_that_cannot_be_put_together_are_refused(tmp_path: Path) -> None:
    first = audit(tmp_path, 0, "sound")
    for others, words in (
        ([], "at least two"),
        ([audit(tmp_path, 0, "sound")], "the same seed"),
        ([audit(tmp_path, 1, "sound", thresholds_sha256="z")], "differ in thresholds_sha256"),
        ([audit(tmp_path, 1, "sound", "sound")], "Not every audit has a verdict on a.m1"),
        ([audit(tmp_path, 1, "sound", quick=True)], "quick audit"),
        ([tmp_path / "nothing"], "is not the result of"),
    ):
        with pytest.raises(SaebenchError, match=words):
            agreed_data([first, *others])
