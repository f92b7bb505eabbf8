"""How good what is trained is: TopK against the peers' TopK on the same activations and tokens, and dead latents.

Activations are those of SmolLM2 after layer 15; all are evaluated by the same code on held-out text.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench import checkpoints
from saebench.progress import Progress
from saebench.training.config import TrainingConfig
from saebench.training.run import train
from saebench.training.sources import ChunkedSource, open_source
from tests.benchmarks.table import Row, run_peer

TITLE = "Quality of training (TopK, SmolLM2 layer 15, n = 8,192, k = 32)"
LATENTS, K, BATCH, TOKENS, LR = 8192, 32, 2048, 150_000, 1e-3
WARMUP, DECAY_SHARE = 10, 0.3
TEXT = {"corpus_skip": 16_384, "corpus_tokens": 262_144, "context": 128}
HELD_OUT_TOKENS = 16_384
LONG_TOKENS, DEAD_AFTER = 2_000_000, 100_000
CACHE = Path("runs") / "cache"
PEERS = {
    "SAELens": ("saelens", "peer_saelens_training.py"),
    "dictionary_learning": ("dictlearn", "peer_dictionary_learning_training.py"),
}


def our_config(**changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "n": LATENTS, "k": K, "batch": BATCH, "tokens": TOKENS, "lr": LR, "warmup_steps": WARMUP,
        "decay_share": DECAY_SHARE, "dead_after_tokens": DEAD_AFTER, **TEXT,
    }  # fmt: skip
    return TrainingConfig(**(settings | changes))  # type: ignore[arg-type]


def held_out() -> Tensor:
    """Activations of the text's first tokens, which are held out from training."""
    config = our_config(corpus_skip=0, corpus_tokens=HELD_OUT_TOKENS)
    source = open_source(config, None, Progress())
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
    source = open_source(our_config(), CACHE, Progress())
    x = held_out()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours = our_error(source, x, folder / "ours")
        rows.append(Row("ours, normalised MSE on held-out text", f"{ours:.4f}", "", f"{TOKENS:,} tokens, lr {LR:g}"))
        rows += peers(source, x, ours, folder)
        rows.append(dead_latents(source, folder / "long"))
    return rows


def our_error(source: ChunkedSource, x: Tensor, folder: Path) -> float:
    train([our_config()], source, [folder], progress=Progress())
    return normalised_mse(folder, x)


def peers(source: ChunkedSource, x: Tensor, ours: float, folder: Path) -> list[Row]:
    """The peers read the same activations, brought to a mean square of 1 by one factor, as their own loaders do."""
    activations = torch.cat([source.chunk(index) for index in range(len(source.counts))])
    factor = float(activations.square().mean().rsqrt())
    path = folder / "activations.safetensors"
    save_file({"activations": activations * factor}, path)
    steps = TOKENS // BATCH
    settings = {"activations": str(path), "n": LATENTS, "k": K, "batch": BATCH, "steps": steps, "lr": LR, "warmup": WARMUP}
    rows = []
    for name, (peer, script) in PEERS.items():
        out = folder / peer
        more = {"decay": int(steps * DECAY_SHARE), "out": str(out)}
        printed = run_peer(peer, script, json.dumps(settings | more))
        if printed is None:
            rows.append(Row(f"against {name}", "not compared", "1.01x", "its environment is absent"))
            continue
        version = json.loads(printed.splitlines()[-1])["version"]
        theirs = normalised_mse(out, x, factor)
        note = f"{theirs:.4f} with version {version}; same tokens, batch and rate"
        rows.append(Row(f"against {name}", f"{ours / theirs:.3f}x", "1.01x", note))
    return rows


def dead_latents(source: ChunkedSource, folder: Path) -> Row:
    (trainer,) = train([our_config(tokens=LONG_TOKENS)], source, [folder], progress=Progress())
    note = f"after {LONG_TOKENS:,} tokens; dead means silent for {DEAD_AFTER:,} tokens"
    return Row("dead latents", f"{trainer.dead_share:.2%}", "2 %", note)
