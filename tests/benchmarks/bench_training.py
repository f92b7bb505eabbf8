"""Training TopK: seconds a step against the trainers of SAELens and dictionary_learning, on the same random activations."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.training.config import TrainingConfig
from saebench.training.trainer import Trainer
from tests.benchmarks.table import Row, run_peer

TITLE = "Training (TopK, n = 16,384, d = 768, k = 32, 4,096 tokens a step, float32)"
LATENTS, WIDTH, K, BATCH = 16_384, 768, 32, 4096
SKIPPED, TIMED, REPEATS = 1, 4, 3
PEERS = {
    "SAELens": ("saelens", "peer_saelens_training.py"),  # dense latents: its sparse ones cannot be trained on a CPU
    "dictionary_learning": ("dictlearn", "peer_dictionary_learning_training.py"),
}


def our_step(activations: Tensor) -> float:
    config = TrainingConfig(n=LATENTS, k=K, batch=BATCH, tokens=BATCH * 1000)
    trainer = Trainer(config, activations)
    for step in range(SKIPPED + TIMED):
        if step == SKIPPED:
            start = time.perf_counter()
        trainer.train_step(activations[(step % 4) * BATCH :][:BATCH])
    return (time.perf_counter() - start) / TIMED


def encoder_product(activations: Tensor) -> float:
    """The floor: the dense product of a batch with the encoder, once."""
    encoder = torch.randn(LATENTS, WIDTH)
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        activations[:BATCH] @ encoder.T
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run() -> list[Row]:
    activations = torch.randn(4 * BATCH, WIDTH, generator=torch.Generator().manual_seed(0))
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in PEERS}
    versions = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "activations.safetensors"
        save_file({"activations": activations}, path)
        settings = {"activations": str(path), "n": LATENTS, "k": K, "batch": BATCH, "steps": SKIPPED + TIMED}
        settings |= {"skip": SKIPPED, "lr": 2e-4, "warmup": 0, "decay": 0}
        for _ in range(REPEATS):
            ours.append(our_step(activations))
            for name, (peer, script) in PEERS.items():
                printed = run_peer(peer, script, json.dumps(settings))
                if printed is not None:
                    found = json.loads(printed.splitlines()[-1])
                    theirs[name].append(found["seconds"])
                    versions[name] = found["version"]
    floor = encoder_product(activations)
    mine = statistics.median(ours)
    rows = [Row("one step", f"{mine:.2f} s", "", f"the floor, one dense encoder product, takes {floor:.2f} s")]
    for name, times in theirs.items():
        if not times:
            rows.append(Row(f"against {name}", "not compared", "5x", "its environment is absent"))
            continue
        ratios = sorted(their / our for their, our in zip(times, ours, strict=True))
        measured = f"{statistics.median(ratios):.1f}x (of {', '.join(f'{ratio:.1f}' for ratio in ratios)})"
        rows.append(
            Row(f"against {name}", measured, "5x", f"{statistics.median(times):.2f} s a step, version {versions[name]}")
        )
    return rows
