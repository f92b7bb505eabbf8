"""Sweeps in groups, kept copies, and caches in bfloat16."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from saebench import checkpoints
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.text.corpus import TokenCorpus
from saebench.training.config import make_config
from saebench.training.run import train
from saebench.training.sources import CachedSource, LiveSource, TensorSource
from tests.conftest import FIXTURES, HOOK

MODEL = str(FIXTURES / "saelens_evals" / "model")
SWEEP = f"""
model = "{MODEL}"
hook = "{HOOK}"
context = 16
n = 64
k = 4
tokens = 2048
batch = 64
scaling = "none"
stored = "bfloat16"
[[member]]
name = "a"
keep_tokens = [64, 512]
[[member]]
name = "b"
arch = "batchtopk"
[[member]]
name = "c"
seed = 1
"""


@pytest.fixture
def sweep(tmp_path: Path, text: Path) -> list[str]:
    (tmp_path / "sweep.toml").write_text(f'corpus = "{text}"\n{SWEEP}')
    return ["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]


def test_members_in_groups_are_those_trained_together(sweep: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, sweep).exit_code == 0
    whole = {name: checkpoints.load(tmp_path / "out" / name).W_enc for name in "abc"}
    (tmp_path / "out").rename(tmp_path / "whole")
    done = CliRunner().invoke(app, [*sweep, "--together", "1"])
    assert done.exit_code == 0, done.output
    for name, expected in whole.items():
        assert torch.equal(checkpoints.load(tmp_path / "out" / name).W_enc, expected), name


def test_some_members_of_a_sweep_on_a_part_of_the_text(sweep: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*sweep, "--only", "[ab]", "--corpus-tokens", "128"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["a", "b"]
    record = json.loads((tmp_path / "out/a/sae.json").read_text())["training"]
    assert record["config"]["corpus_tokens"] == 128 and record["epochs"] > 16
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["recipe"] == "sweep" and list(manifest["members"]) == ["a", "b"]
    weights = (tmp_path / "out/a/sae.safetensors").read_bytes()
    assert manifest["members"]["a"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["members"]["a"]["settings"]["corpus"] == f"{tmp_path.name}/words.txt"
    assert manifest["members"]["b"]["settings"]["arch"] == "batchtopk" and manifest["members"]["b"]["final"]["l0"] == 4
    assert CliRunner().invoke(app, [*sweep, "--only", "c", "--corpus-tokens", "128"]).exit_code == 0
    assert list(json.loads((tmp_path / "out/manifest.json").read_text())["members"]) == ["a", "b", "c"]
    wrong = CliRunner().invoke(app, [*sweep, "--only", "x*"])
    assert str(wrong.exception) == "No member of the sweep is named 'x*'; there are: a, b, c."


def test_finished_members_are_left_and_missing_ones_trained(sweep: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [*sweep, "--together", "1"]).exit_code == 0
    path = tmp_path / "out/b/sae.json"
    before = {name: (tmp_path / "out" / name / "sae.safetensors").stat().st_mtime_ns for name in "ac"}
    import shutil

    expected = checkpoints.load(tmp_path / "out/b").W_enc.clone()
    shutil.rmtree(path.parent)
    assert CliRunner().invoke(app, [*sweep, "--together", "1", "--resume"]).exit_code == 0
    assert torch.equal(checkpoints.load(tmp_path / "out/b").W_enc, expected)
    assert before == {name: (tmp_path / "out" / name / "sae.safetensors").stat().st_mtime_ns for name in "ac"}


def test_copies_are_those_of_a_run_that_ends_there(sweep: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, sweep).exit_code == 0
    folder = tmp_path / "out/a"
    assert sorted(path.name for path in folder.glob("after-*")) == ["after-512", "after-64"]
    record = json.loads((folder / "after-512/sae.json").read_text())["training"]
    assert record["tokens"] == 512 and record["complete"] is False
    source = TensorSource(torch.randn(4096, 32, generator=torch.Generator().manual_seed(0)))
    settings = {"arch": "topk", "n": 64, "k": 4, "batch": 64, "scaling": "none"}
    train([make_config({**settings, "tokens": 4096, "keep_tokens": [512]})], source, [tmp_path / "long"])
    train([make_config({**settings, "tokens": 512})], source, [tmp_path / "short"])
    kept, short = checkpoints.load(tmp_path / "long/after-512"), checkpoints.load(tmp_path / "short")
    assert torch.equal(kept.W_enc, short.W_enc) and torch.equal(kept.W_dec, short.W_dec)
    for wrong in ([100], [8192], [0]):
        with pytest.raises(SaebenchError, match="a copy is kept after whole batches of 64 tokens"):
            make_config({**settings, "tokens": 4096, "keep_tokens": wrong})
    with pytest.raises(SaebenchError, match="stored is 'int8'"):
        make_config({**settings, "stored": "int8"})


def test_a_cache_in_bfloat16_gives_rounded_activations_and_is_no_other_cache(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    live = LiveSource(tiny_model.cut(HOOK), tiny_corpus, Progress(shown=False))
    cached = CachedSource(tmp_path / "cache", live, "bfloat16")
    assert torch.equal(cached.chunk(0), live.chunk(0).bfloat16().float())
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    assert file.stat().st_size < live.chunk(0).numel() * 2 + 1000
    assert torch.equal(CachedSource(tmp_path / "cache", live, "bfloat16").chunk(0), cached.chunk(0))
    for stored in ("float32",):
        with pytest.raises(SaebenchError, match=r"holds other activations \(stored differ"):
            CachedSource(tmp_path / "cache", live, stored)
