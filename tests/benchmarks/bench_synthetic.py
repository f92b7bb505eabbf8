"""Recovery on SAELens's synthetic data: its TopK and ours, on the same activations, by its definitions and by ours."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from saebench import checkpoints
from saebench.planted.recovery import measure
from saebench.sae import SparseAutoencoder
from saebench.training.config import TrainingConfig
from saebench.training.sources import TensorSource
from saebench.training.trainer import Trainer
from tests.benchmarks.table import Row, run_peer

TITLE = "True recovery on SAELens's synthetic data (512 features, 96 channels; TopK, 256 latents, k = 10)"
SAMPLES, BATCH, RATES = 262_144, 1024, (1e-3, 3e-3)


def train(activations: torch.Tensor, lr: float) -> SparseAutoencoder:
    config = TrainingConfig(
        model="synthetic", hook="blocks.0.hook_resid_post", arch="topk", n=256, k=10, tokens=SAMPLES, batch=BATCH, lr=lr,
        scaling="none", device="cpu",
    )  # fmt: skip
    trainer = Trainer(config, activations)
    for number, batch in TensorSource(activations).batches(BATCH, 0, 0):
        trainer.train_step(batch)
        if number + 1 >= SAMPLES // BATCH:
            break
    return trainer.sae()


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        printed = run_peer("saelens", "peer_saelens_synthetic.py", "make", str(folder), str(SAMPLES))
        if printed is None:
            return [Row("SAELens", "not measured", note="its environment is absent")]
        data = load_file(folder / "data.safetensors")
        found = {"SAELens, lr 1e-3": (json.loads(printed.splitlines()[-1]), checkpoints.load(folder / "saelens"))}
        for lr in RATES:
            sae = train(data["train"], lr)
            tensors = {
                name: tensor.contiguous() for name, tensor in sae.tensors() if name in ("W_enc", "W_dec", "b_enc", "b_dec")
            }
            save_file(tensors, folder / "sae.safetensors")
            theirs = run_peer("saelens", "peer_saelens_synthetic.py", "measure", str(folder))
            assert theirs is not None
            found[f"saebench, lr {lr:g}"] = (json.loads(theirs.splitlines()[-1]), sae)
        rows = []
        for name, (figures, sae) in found.items():
            ours = measure(sae, data["directions"], data["held_out"], data["code"])
            theirs_shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            rows.append(Row(f"{name}: SAELens's figures", theirs_shown))
            shown = (
                f"F1 {ours.f1:.4f}, recall {ours.recall:.4f}, precision {ours.precision:.4f}, cosines "
                f"{ours.features_cosine:.4f} and {ours.latents_cosine:.4f}, variance {ours.variance:.4f}"
            )
            rows.append(Row(f"{name}: recovery", shown))
        return rows
