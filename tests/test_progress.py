from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from saebench.lm import LanguageModel
from saebench.progress import Progress, rate_in_words
from saebench.text.corpus import TokenCorpus
from saebench.training.config import TrainingConfig
from saebench.training.run import train
from saebench.training.sources import LiveSource
from tests.conftest import HOOK


def recorded() -> tuple[Progress, io.StringIO]:
    """Progress on a terminal that keeps what it was sent."""
    progress, stream = Progress(), io.StringIO()
    progress.console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    return progress, stream


@pytest.mark.parametrize(
    "per_second, words",
    [
        (1234.0, "1,234 tokens/s"),
        (9.87, "9.9 tokens/s"),
        (0.05, "3.0 tokens/min"),
        (0.001, "3.6 tokens/h"),
        (0.0, "0.0 tokens/h"),
    ],
)
def test_slow_work_has_a_rate_too(per_second: float, words: str) -> None:
    assert rate_in_words(per_second, "tokens") == words


def test_a_task_within_a_task_shows_in_the_bar_of_the_outer_one() -> None:
    progress, stream = recorded()
    with progress.task("Training", 10, "tokens") as advance:
        with progress.task("Activations", 4, "tokens") as inner:
            inner(1)
            progress._bar._bars.refresh()  # type: ignore[union-attr]
            assert "(activations: 25%)" in stream.getvalue()
        advance.note("normalised MSE 0.125")
        advance(10)
    last = [line for line in stream.getvalue().splitlines() if "%" in line][-1]
    assert "Training" in last and "100%" in last and "normalised MSE 0.125" in last and "activations" not in last
    with progress.task("Evaluating", 1, "tokens"):
        pass
    assert "Evaluating" in stream.getvalue()


def test_parts_are_tracked() -> None:
    progress, stream = recorded()
    assert list(progress.track("Splicing", [3, 4], "batches")) == [3, 4]
    assert "Splicing" in stream.getvalue() and "100%" in stream.getvalue()
    assert list(Progress(False).track("Splicing", [3, 4], "batches")) == [3, 4]


def test_a_training_run_has_one_bar_with_loss_and_sparsity(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations come in chunks while it trains; none of them starts a bar of its own."""
    monkeypatch.setattr("saebench.training.sources.CHUNK_TOKENS", 128)
    progress, stream = recorded()
    source = LiveSource(tiny_model.cut(HOOK), tiny_corpus, progress)
    assert len(source.counts) == 3
    settings = [
        TrainingConfig(n=64, k=4, tokens=64 * 12, batch=64, scaling="none", arch=arch) for arch in ("topk", "batchtopk")
    ]
    train(settings, source, [tmp_path / "a", tmp_path / "b"], progress=progress)
    lines = [line for line in stream.getvalue().split("\n") if "%" in line]
    assert len({line.rsplit("\r", 1)[-1].split()[0].removeprefix("\x1b[2K") for line in lines}) == 1
    assert "Training" in lines[-1] and "100%" in lines[-1]
    assert "normalised MSE" in lines[-1] and "L0" in lines[-1] and "means of 2" in lines[-1]
    resumed, quiet = recorded()
    train([settings[0]], source, [tmp_path / "a"], resume=True, progress=resumed)
    assert "Training" in quiet.getvalue()
