"""Peak memory of probing a million latents, in a process of its own; prints JSON rows."""

from __future__ import annotations

import json
import resource
import time

import torch

from saebench.probing.activations import TaskActivations
from saebench.probing.best import best_probe
from saebench.probing.protocol import BestLatent
from saebench.probing.values import PreActivations
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK

LATENTS, WIDTH, TRAIN, OTHERS = 1_000_000, 64, 1000, 100
GB = 1e9


def peak() -> float:
    """Largest resident set of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def main() -> None:
    directions = torch.randn(LATENTS, WIDTH)
    info = CheckpointInfo("random", "saebench", "topk", WIDTH, WIDTH, LATENTS, {})
    sae = SparseAutoencoder(directions.T, directions, torch.zeros(LATENTS), torch.zeros(WIDTH), TopK(32), info)
    sizes = {"train": TRAIN, "validation": OTHERS, "test": OTHERS}
    labels = torch.cat([torch.arange(size) >= size // 2 for size in sizes.values()]).long()
    texts = labels.numel()
    rows = torch.randn(texts, WIDTH) + 0.3 * labels[:, None]
    acts = TaskActivations(rows, torch.arange(texts), labels, torch.arange(texts), sizes, 0, "random")
    before, start = peak(), time.perf_counter()
    found = best_probe(PreActivations(sae, "last"), acts, BestLatent(candidates=64, bootstrap=1000), 0)
    assert found["directions"] == LATENTS and found["not_converged"] == 0
    row = {
        "what": "a million latents x 1,000 examples",
        "bar": "under 1.5 GB beyond the weights",
        "measured": f"{peak() - before:.2f} GB beyond weights and libraries",
        "note": f"largest resident set {peak():.2f} GB; {time.perf_counter() - start:.0f} s; d = {WIDTH}",
    }
    print(json.dumps([row]))


if __name__ == "__main__":
    main()
