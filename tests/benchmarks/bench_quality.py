"""How good what is trained is: TopK against the peers' TopK on the same activations, batch and tokens, and dead latents.

The cell is topk-n4096-k32 of the recipe ``reference``, at a quarter of its tokens; all are evaluated by the same code on
held-out text. Each peer trains at our learning rate, at a third of it, and at dictionary_learning's default for this width,
and its best one counts.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench import checkpoints
from saebench.progress import Progress
from saebench.training.config import TrainingConfig, read_sweep
from saebench.training.run import train
from saebench.training.sources import ChunkedSource, open_source
from tests.benchmarks.table import Row, run_peer
from tests.conftest import SHARED

TITLE = "Quality of training (TopK, SmolLM2 layer 15, n = 4,096, k = 32)"
TEXT = SHARED / "data" / "text_english_mix"
TEXT_TOKENS, TOKENS, HELD_OUT_TOKENS = 524_288, 1_048_576, 65_536
PEER_RATES = (3e-3, 1e-3, 4e-4)
CACHE = Path(os.environ.get("SAEBENCH_CACHE", "runs/reference-cache"))
PEERS = {
    "SAELens": ("saelens", "peer_saelens_training.py"),
    "dictionary_learning": ("dictlearn", "peer_dictionary_learning_training.py"),
}


def our_config(text: Path = TEXT / "train.jsonl", text_tokens: int = TEXT_TOKENS) -> TrainingConfig:
    changes = {"corpus": str(text), "corpus_revision": "", "corpus_tokens": text_tokens}
    configs, names = read_sweep("reference", changes)
    return replace(configs[names.index("topk-n4096-k32")], tokens=TOKENS, keep_tokens=())


def held_out() -> Tensor:
    """Activations of held-out text."""
    source = open_source(our_config(TEXT / "heldout.jsonl", HELD_OUT_TOKENS), None, Progress())
    return torch.cat([source.chunk(index) for index in range(len(source.counts))])


def normalised_mse(folder: Path, x: Tensor, factor: float = 1.0) -> float:
    """Of a checkpoint of any format on ``[tokens, d]`` activations that it reads times ``factor``."""
    sae = checkpoints.load(folder)
    squares = 0.0
    for part in (x * factor).split(2048):
        squares += float((sae.decode(sae.encode(part), part) - part).double().square().sum())
    variance = float(((x - x.mean(dim=0)) * factor).double().square().sum())
    return squares / variance


def run() -> list[Row]:
    if not TEXT.is_dir():
        return [Row("normalised MSE on held-out text", "not measured", "1.00x", "the shared data folder is absent")]
    config = our_config()
    source = open_source(config, CACHE, Progress())
    x = held_out()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (trainer,) = train([config], source, [folder / "ours"], progress=Progress())
        ours = normalised_mse(folder / "ours", x)
        silent = silent_share(folder / "ours", x)
        rows = [
            Row("ours, normalised MSE on held-out text", f"{ours:.4f}", "", f"{TOKENS:,} tokens, lr {config.lr:g}"),
            Row("ours, latents never active in training's last 1,000,000 tokens", f"{trainer.dead_share:.2%}"),
            Row(
                "ours, latents never active in the held-out text",
                f"{silent:.2%}",
                "",
                f"{x.shape[0]:,} tokens",
            ),
        ]
        return rows + peers(source, x, ours, config, folder)


def silent_share(folder: Path, x: Tensor) -> float:
    """The share of latents that are active at none of the activations."""
    sae = checkpoints.load(folder)
    fired = torch.zeros(sae.n_latents, dtype=torch.bool)
    for part in x.split(2048):
        latents = sae.encode(part)
        fired[latents.indices[latents.active]] = True
    return 1 - float(fired.float().mean())


def peers(source: ChunkedSource, x: Tensor, ours: float, config: TrainingConfig, folder: Path) -> list[Row]:
    """The peers read the same activations, brought to a mean square of 1 by one factor, as their own loaders do."""
    activations = torch.cat([source.chunk(index) for index in range(len(source.counts))])
    factor = float(activations.square().mean().rsqrt())
    path = folder / "activations.safetensors"
    save_file({"activations": activations * factor}, path)
    settings = {
        "activations": str(path), "n": config.n, "k": config.k, "batch": config.batch, "steps": config.steps,
        "warmup": config.warmup_steps, "decay": int(config.steps * config.decay_share),
    }  # fmt: skip
    rows = []
    for name, (peer, script) in PEERS.items():
        found: dict[float, float] = {}
        version = ""
        for rate in PEER_RATES:
            out = folder / f"{peer}-{rate:g}"
            printed = run_peer(peer, script, json.dumps(settings | {"lr": rate, "out": str(out)}))
            if printed is None:
                break
            version = json.loads(printed.splitlines()[-1])["version"]
            found[rate] = normalised_mse(out, x, factor)
        if not found:
            rows.append(Row(f"against {name}", "not compared", "1.00x", "its environment is absent"))
            continue
        each = ", ".join(f"{error:.4f} at lr {rate:g}" for rate, error in found.items())
        rows.append(Row(f"against {name}", f"{ours / min(found.values()):.3f}x", "1.00x", f"version {version}: {each}"))
    return rows
