"""The pages as files: the same data, in scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.viewer.static import check_static_target
from tests.viewer.conftest import DENSE, Files, N


def handed_over(folder: Path, name: str) -> Any:
    text = (folder / "data" / f"{name}.js").read_text()
    start = f'saebenchData("{name}",'
    assert text.startswith(start) and text.endswith(");\n")
    return json.loads(text[len(start) : -3])


def test_written_pages(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "pages"
    options = ["--examples", str(files.examples), "--result", str(files.result), "--model", files.model]
    done = CliRunner().invoke(app, ["view", str(files.sae), *options, "--static", str(out)])
    assert done.exit_code == 0, done.output
    pages = [page for part in (0, 1) for page in handed_over(out, f"latents-{part:05d}")]
    assert [page["latent"] for page in pages] == list(range(N))
    assert len(pages[DENSE]["neighbours"]) == 10 and len(pages[DENSE]["lens"]["top"]) == 10
    assert len(pages[DENSE]["groups"][0]["examples"]) == 8
    assert len(handed_over(out, "list-00000")) == N
    index = (out / "index.html").read_text()
    assert "http:" not in index.replace("http://www.w3.org/2000/svg", "") and "https:" not in index
    check_static_target(out)  # pages of its own kind are replaced


def test_foreign_folders_are_left_alone(files: Files, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SaebenchError, match="holds other files"):
        check_static_target(tmp_path)
    done = CliRunner().invoke(app, ["view", str(files.sae), "--no-live", "--static", str(tmp_path)])
    assert isinstance(done.exception, SaebenchError)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
