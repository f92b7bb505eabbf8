"""Static pages of a checkpoint whose metadata claims a number of latents that its weights do not have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saebench.checkpoints import save_native
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.sae import SparseAutoencoder


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        (10**12, "gives 1,000,000,000,000 for n_latents, but its weights have 64"),
        ("64", "gives '64' for n_latents; a positive whole number is needed"),
        (True, "gives True for n_latents; a positive whole number is needed"),
    ],
)
def test_claimed_latents_are_held_to_the_weights_before_a_page_is_written(
    make_sae: Callable[..., SparseAutoencoder], tmp_path: Path, claimed: Any, words: str
) -> None:
    folder = save_native(make_sae(), tmp_path / "sae")
    config = json.loads((folder / "sae.json").read_text())
    config["sae"]["n_latents"] = claimed
    (folder / "sae.json").write_text(json.dumps(config))
    done = CliRunner().invoke(app, ["view", str(folder), "--static", str(tmp_path / "pages"), "--no-live"])
    assert isinstance(done.exception, SaebenchError), done.output
    assert words in str(done.exception)
    assert not (tmp_path / "pages").exists()
