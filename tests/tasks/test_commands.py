"""`saebench tasks` and `saebench tasks show`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.tasks import sources


def test_tasks_lists_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)
    monkeypatch.setattr(sources, "package_folder", lambda: None)
    (tmp_path / "jigsaw_toxic").mkdir()
    (tmp_path / "jigsaw_toxic" / "test_balanced.jsonl").write_text("{}")
    done = CliRunner().invoke(app, ["tasks", "--set", "jigsaw,hh_helpful,amazon", "--data-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert "local" in lines["jigsaw"] and "missing" in lines["hh_helpful"] and "missing" in lines["amazon"]
    assert "3 tasks, 1 with data, 2 without." in done.output


def test_show_prints_two_examples_of_each_label(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)
    done = CliRunner().invoke(app, ["tasks", "show", "ag_news_sports", "--data-dir", str(shared_data)])
    assert done.exit_code == 0, done.output
    assert done.output.count("label 1") == 2 and done.output.count("label 0") == 2
    assert "data folder: ag_news/test.jsonl" in done.output and "240 train" in done.output


def test_an_unknown_task_is_an_error() -> None:
    done = CliRunner().invoke(app, ["tasks", "show", "nothing"])
    assert isinstance(done.exception, SaebenchError) and "no definition 'nothing'" in str(done.exception)
