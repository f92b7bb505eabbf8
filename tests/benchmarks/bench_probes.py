"""Probes: many one-dimensional fits at once, against scikit-learn in a loop, and the memory of a million."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from saebench.probing.newton import fit_probes
from tests.benchmarks.table import Row

TITLE = "Probes (one weight and one bias each, 1,000 examples)"
LATENTS, EXAMPLES, LOOPED, REPEATS = 32_768, 1000, 200, 3


def problems(latents: int) -> tuple[Tensor, Tensor]:
    """Normal values whose class means differ by a random amount."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(EXAMPLES) >= EXAMPLES // 2).float()
    effect = 0.5 * torch.randn(latents, 1, generator=generator)
    return torch.randn(latents, EXAMPLES, generator=generator) + effect * labels, labels.long()


def looped(values: Tensor, labels: Tensor) -> float:
    """Seconds a latent of a loop over scikit-learn."""
    y = labels.numpy()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in values[:LOOPED]:
            LogisticRegression(penalty=None).fit(row[:, None].numpy(), y)
    return (time.perf_counter() - start) / LOOPED


def run() -> list[Row]:
    values, labels = problems(LATENTS)
    ours, theirs = [], []
    for _ in range(REPEATS):  # in turn: a shared machine's speed drifts
        start = time.perf_counter()
        found = fit_probes(values, labels)
        ours.append(time.perf_counter() - start)
        theirs.append(looped(values, labels) * LATENTS)
        assert bool(found.converged.all())
    ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    threads = f"{torch.get_num_threads()} threads, median of {REPEATS}"
    return [
        Row(f"{LATENTS:,} latents", f"{statistics.median(ours):.2f} s", "3 s", threads),
        Row(
            "against a loop over scikit-learn",
            f"{statistics.median(ratios):.0f}x",
            "200x",
            f"{statistics.median(theirs):.0f} s, extrapolated from {LOOPED} latents",
        ),
        *in_own_process(),
    ]


def in_own_process() -> list[Row]:
    command = [sys.executable, "-m", "tests.benchmarks.memory_probes"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Row(**row) for row in json.loads(printed.splitlines()[-1])]
