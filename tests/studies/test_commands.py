"""The commands of the studies, on small checkpoints: what they write, and what they say of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from saebench import checkpoints
from saebench.checkpoints import save_native
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.sae import SparseAutoencoder
from tests.conftest import FIXTURES

MODEL = str(FIXTURES / "saelens_evals" / "model")
MakeSae = Callable[..., SparseAutoencoder]


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_stitch_writes_numbers_a_page_and_a_row_for_each_latent(make_sae: MakeSae, text: Path, tmp_path: Path) -> None:
    small, large = save_native(make_sae(n=32), tmp_path / "small"), save_native(make_sae(n=64, seed=1), tmp_path / "large")
    out = tmp_path / "out"
    said = command("stitch", small, large, "--out", out, "--model", MODEL, "--corpus", text, "--context", 20)
    assert "novel_latents" in said
    numbers = json.loads((out / "stitching.json").read_text())
    assert [sae["n_latents"] for sae in numbers["saes"]] == [32, 64]
    assert numbers["definitions"].keys() == {"studies/leask2025"} and numbers["settings"]["threshold"] == 0.7
    assert len(pd.read_parquet(out / "latents.parquet")) == 64
    assert str(tmp_path) not in (out / "stitching.json").read_text(), "paths of this machine are not written"
    with pytest.raises(SaebenchError, match="smaller one first"):
        command("stitch", large, small, "--out", out, "--model", MODEL, "--corpus", text)


def test_meta_writes_an_autoencoder_that_can_be_loaded(make_sae: MakeSae, tmp_path: Path) -> None:
    checkpoint, out = save_native(make_sae(n=256), tmp_path / "sae"), tmp_path / "out"
    command("meta", checkpoint, "--out", out, "--latents", 16, "--steps", 15)
    assert "variance_explained_shuffled" in json.loads((out / "meta.json").read_text())["metrics"]
    meta = checkpoints.load(out / "sae")
    assert (meta.n_latents, meta.d_in) == (16, 32)
    table = pd.read_parquet(out / "decomposition.parquet")
    code = meta.encode(torch.nn.functional.normalize(checkpoints.load(checkpoint).W_dec, dim=1))
    assert len(table) == int(code.active.sum()), "the stored threshold is the one the study used"
    assert table.latent.is_monotonic_increasing


def test_scaling_needs_something_to_fit(make_sae: MakeSae, tmp_path: Path) -> None:
    untrained = save_native(make_sae(), tmp_path / "sae")
    with pytest.raises(SaebenchError, match="no training record"):
        command("scaling", untrained, "--out", tmp_path / "out")
    with pytest.raises(SaebenchError, match="at least 20"):
        command("scaling", untrained, "--out", tmp_path / "out", "--bootstraps", 3)
