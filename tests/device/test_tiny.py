"""The device's script runs in small on a CPU, and says that no GPU was used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.device.__main__ import main
from tests.device.kernels import check
from tests.device.sizes import TINY


@pytest.mark.filterwarnings("ignore")
def test_every_part_runs_in_small(tmp_path: Path) -> None:
    assert main(["--tiny", "--out", str(tmp_path / "a" / "device.json")]) == 0
    found = json.loads((tmp_path / "a" / "device.json").read_text())
    assert found["gpu"] is False and "no GPU was used" in found["device"]
    parts = found["parts"]
    assert list(parts) == ["kernels", "evaluation", "training", "suite"] and not any(
        "error" in each for each in parts.values()
    )
    assert len(parts["kernels"]["rows"]) == 2 * 2 * 3 and parts["kernels"]["correct"]
    assert [(row["latents"], row["saes"]) for row in parts["evaluation"]["rows"]] == [(64, 1), (64, 2)]
    for row in parts["evaluation"]["rows"]:
        assert (
            row["times_the_floor"] == pytest.approx(row["wall_seconds"] / row["floor_seconds"])
            and row["peak_memory_gib"] is None
        )
        assert row["tokens_per_second"] == pytest.approx(96 / row["wall_seconds"])
    assert parts["training"]["seconds_a_step"] > 0
    assert parts["suite"]["failures"] == {} and parts["suite"]["controls"] == ["random", "pca"]
    assert set(parts["suite"]["by_evaluator"]) == {"reconstruction", "downstream", "dictionary"}


def test_a_wrong_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tests.device import kernels

    assert all(row["correct"] for row in check(TINY, 64, torch.float32))
    real = kernels.sparse_decode
    monkeypatch.setattr(kernels, "sparse_decode", lambda entries, values, table: real(entries, values, table) * 1.001)
    assert not any(row["correct"] for row in check(TINY, 64, torch.float32))


def test_without_a_gpu_full_size_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "No GPU is at hand" in capsys.readouterr().err
