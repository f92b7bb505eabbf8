"""The command line, as a user meets it: what works, what it says of bad input, and with which exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import saebench
from saebench.checkpoints import save_native
from saebench.lm import LanguageModel
from saebench.results import read_result, validate
from saebench.sae import JumpReLU, SparseAutoencoder
from saebench.text.corpus import load_corpus
from tests.conftest import FIXTURES

MODEL = FIXTURES / "saelens_evals" / "model"


@pytest.fixture
def checkpoint(tmp_path: Path, make_sae: Callable[..., SparseAutoencoder]) -> Path:
    return save_native(make_sae(), tmp_path / "sae")


def cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "saebench.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert "Warning" not in done.stderr, done.stderr  # of libraries: users can do nothing about them
    return done


def fails(sentence: str, *arguments: object) -> None:
    done = cli(*arguments)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, done.stderr
    assert sentence in said
    assert "Error: " in said and "Traceback" not in said


def test_evaluate_prints_a_scorecard_and_writes_a_valid_result(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "result.json", tmp_path / "page.html"
    done = cli("evaluate", checkpoint, "--model", MODEL, "--text", text, "--context", 20, "--out", out, "--report", page)
    assert done.returncode == 0, done.stderr
    assert "normalised_mse" in done.stdout and "kl_divergence" in done.stdout
    assert validate(out) == []
    result = read_result(out)
    assert result.complete and result.corpus.bos == "text" and result.corpus.rows == 15
    assert result.sae.origin.endswith("/sae") and not result.sae.origin.startswith("/")
    assert "plotly" in page.read_text()
    assert cli("validate", out).returncode == 0


def test_text_without_exclusions_evaluates_exactly_the_file(text: Path) -> None:
    model = LanguageModel.load(str(MODEL))
    corpus = load_corpus(str(text), model.tokenizer, context=20, bos="text", exclude=False)
    ids = [1, *(int(word[1:]) for word in text.read_text().split())]
    assert corpus.tokens.flatten().tolist() == ids[:300]
    assert corpus.tokens_dropped == 1
    assert corpus.tokens_counted == 300 and bool(corpus.loss_mask.all())


def test_several_checkpoints_get_a_file_each(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    done = cli(
        "evaluate", checkpoint, checkpoint, "--model", MODEL, "--text", text, "--context", 20, "--out", tmp_path / "both"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["sae-0.json", "sae-1.json"]


def test_resume_keeps_what_is_finished_and_refuses_other_settings(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": LanguageModel.load(str(MODEL)),
        "corpus": str(text),
        "context": 20,
        "progress": False,
    }
    out = tmp_path / "result.json"
    first = saebench.evaluate(str(checkpoint), evaluators=["reconstruction"], out=out, **settings)
    both = saebench.evaluate(str(checkpoint), out=out, resume=True, **settings)
    assert both.result.evaluators["reconstruction"] == first.result.evaluators["reconstruction"]
    assert both.result.complete and "downstream" in both.result.evaluators
    with pytest.raises(saebench.SaebenchError, match=r"other settings \(seed\)"):
        saebench.evaluate(str(checkpoint), out=out, resume=True, seed=7, **settings)
    with pytest.raises(saebench.SaebenchError, match=r"other settings \(corpus\.sha256\)"):
        saebench.evaluate(str(checkpoint), out=out, resume=True, **(settings | {"context": 30}))


def test_a_file_that_is_no_result_is_not_overwritten(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"my": "notes"}')
    with pytest.raises(saebench.SaebenchError, match="is not a result file"):
        saebench.evaluate(
            str(checkpoint), model=LanguageModel.load(str(MODEL)), corpus=str(text), context=20, progress=False,
            out=tmp_path / "notes.json",
        )  # fmt: skip
    assert (tmp_path / "notes.json").read_text() == '{"my": "notes"}'


def test_a_failing_evaluator_fails_the_run_and_spares_the_others(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saebench.evaluators.downstream import Downstream

    def broken(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Downstream, "compare", broken)
    out = tmp_path / "result.json"
    settings: dict[str, Any] = {
        "model": LanguageModel.load(str(MODEL)),
        "corpus": str(text),
        "context": 20,
        "progress": False,
    }
    card = saebench.evaluate(str(checkpoint), out=out, **settings)
    assert card.result.failures == {"downstream": "RuntimeError: out of luck"}
    assert not card.result.complete and read_result(out).evaluators.keys() == {"reconstruction"}
    monkeypatch.undo()
    again = saebench.evaluate(str(checkpoint), out=out, resume=True, **settings)
    assert again.result.complete and again.result.failures == {}


def test_bad_input_is_one_sentence_and_exit_code_2(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    common = ("--model", MODEL, "--text", text, "--context", 20, "--out", tmp_path / "result.json")
    fails("There is no checkpoint at", "evaluate", tmp_path / "nowhere", *common)
    fails("did you mean 'downstream'", "evaluate", checkpoint, *common, "--evaluators", "downstraem")
    fails(
        "the nearest it has is blocks.1.hook_resid_post",
        "evaluate",
        checkpoint,
        *common,
        "--hook",
        "blocks.1.hook_resid_pots",
    )
    fails("its layers are 0 to 3", "evaluate", checkpoint, *common, "--hook", "blocks.9.hook_resid_post")
    fails("fewer than one context", "evaluate", checkpoint, *common[:4], "--context", 2000)
    (tmp_path / "empty.txt").write_text("")
    fails("is empty", "evaluate", checkpoint, "--model", MODEL, "--text", tmp_path / "empty.txt")
    fails("There is no file", "evaluate", checkpoint, "--model", MODEL, "--text", tmp_path / "missing.txt")
    fails("cannot be reached", "evaluate", "owner/repository", *common)
    (tmp_path / "file").write_text("")
    fails("Cannot write", "evaluate", checkpoint, *common[:6], "--out", tmp_path / "file" / "result.json")
    assert not (tmp_path / "result.json").exists()


def test_damaged_checkpoints_are_refused(
    checkpoint: Path, text: Path, tmp_path: Path, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    common = ("--model", MODEL, "--text", text, "--context", 20, "--out", tmp_path / "result.json")
    wide = save_native(make_sae(d=48), tmp_path / "wide")
    fails("activations of width 48, but", "evaluate", wide, *common)
    holes = make_sae()
    holes.W_dec[3, 3] = float("nan")
    fails("holds NaN or infinite values", "evaluate", save_native(holes, tmp_path / "holes"), *common)
    weights = checkpoint / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    fails("cannot be read", "evaluate", checkpoint, *common)
    assert not (tmp_path / "result.json").exists()


def test_ctrl_c_keeps_what_is_finished(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """The second evaluator never ends; the first one's result is on disk when the user gives up."""
    out = tmp_path / "result.json"
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background hands down that it is ignored
import saebench.evaluators.base as base
from saebench.evaluators.base import Evaluator
class Endless(Evaluator):
    name = "endless"
    def compute(self): time.sleep(1000)
found = base.installed_evaluators
base.installed_evaluators = lambda: found() | {{"endless": Endless}}
sys.argv = ["saebench", "evaluate", {str(checkpoint)!r}, "--model", {str(MODEL)!r}, "--text", {str(text)!r},
            "--context", "20", "--evaluators", "reconstruction,endless", "--out", {str(out)!r}]
from saebench.cli import main
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "--resume" in said
    result = read_result(out)
    assert result.evaluators.keys() == {"reconstruction"} and not result.complete


def test_inspect_reads_no_weights(tmp_path: Path, make_sae: Callable[..., SparseAutoencoder]) -> None:
    sae = make_sae(activation=JumpReLU(torch.full((64,), 0.25)))
    folder = save_native(sae, tmp_path / "sae", training={"tokens": 5})
    weights = folder / "sae.safetensors"
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    with weights.open("r+b") as stream:  # the header stays; reading a weight would find noise
        stream.seek(header)
        stream.write(b"\xff" * (weights.stat().st_size - header))
    done = cli("inspect", folder)
    assert done.returncode == 0
    for word in ("saebench", "jumprelu", "0.25", "64", "blocks.1.hook_resid_post"):
        assert word in done.stdout


def test_evaluators_are_listed_and_results_shown(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    assert "reconstruction" in cli("evaluators").stdout
    out = tmp_path / "result.json"
    saebench.evaluate(
        str(checkpoint), model=LanguageModel.load(str(MODEL)), corpus=str(text), context=20, progress=False, out=out
    )
    assert "| reconstruction.normalised_mse |" in cli("report", out, "--markdown").stdout
    data = json.loads(out.read_text())
    data["evaluators"]["reconstruction"]["metrics"]["mse"]["value"] = None
    out.write_text(json.dumps(data))
    done = cli("validate", out)
    assert done.returncode == 2 and "a null value needs a reason" in done.stdout


def test_train_then_evaluate(tmp_path: Path) -> None:
    """The README's path on the tiny model: train, resume, sweep, evaluate."""
    numbers = torch.randint(3, 200, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    words = tmp_path / "words.txt"
    words.write_text(" ".join(f"w{number}" for number in numbers))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{MODEL}"\nhook = "blocks.1.hook_resid_post"\ncorpus = "{words}"\ncorpus_skip = 1000\ncontext = 20\n'
        "n = 128\nk = 8\nbatch = 256\ntokens = 12800\nlr = 3e-3\n"
    )
    done = cli("train", "--recipe", recipe, "--out", tmp_path / "sae", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout and "4.2 epochs" in done.stdout
    fails("holds a training run already", "train", "--recipe", recipe, "--out", tmp_path / "sae")
    fails("other settings: k", "train", "--recipe", recipe, "--out", tmp_path / "sae", "--k", 4, "--resume")
    fails("k = 500 is larger than n = 128", "train", "--recipe", recipe, "--k", 500)
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        recipe.read_text() + '[[member]]\nname = "a"\narch = "relu"\ntarget_l0 = 8.0\n[[member]]\nname = "b"\nk = 4\n'
    )
    done = cli("sweep", sweep, "--out", tmp_path / "sweep", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = saebench.evaluate(
        [str(tmp_path / "sae"), str(tmp_path / "sweep" / "b"), str(tmp_path / "sae" / "average")],
        corpus=str(words), tokens=1000, progress=False,
    )  # fmt: skip
    errors = [card["reconstruction.normalised_mse"] for card in found]
    assert all(error is not None and 0 < error < 0.9 for error in errors)
    assert found[0]["reconstruction.l0"] == pytest.approx(8, abs=0.5)
    assert found[0].result.sae.training["epochs"] == pytest.approx(12_800 / 3040)
