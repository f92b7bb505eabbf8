"""Refinement of the values of active latents: time for 100,000 tokens."""

from __future__ import annotations

import time

import torch

from saebench.evaluators.codes.refinement import refine
from tests.benchmarks.bench_evaluate import LATENTS, WIDTH, K, random_sae
from tests.benchmarks.table import Row

TITLE = "Shrinkage (n = 8,192, d = 576, k = 32)"
TOKENS, BLOCK = 100_000, 1024


def run() -> list[Row]:
    sae = random_sae()
    generator = torch.Generator().manual_seed(1)
    seconds, busy, errors, refined_errors, converged = 0.0, 0.0, 0.0, 0.0, 0
    for start in range(0, TOKENS, BLOCK):
        tokens = min(BLOCK, TOKENS - start)
        planted = torch.randint(0, LATENTS, (tokens, K), generator=generator)
        strengths = torch.rand(tokens, K, 1, generator=generator) * 3
        x = (sae.W_dec[planted] * strengths).sum(dim=1) + 0.05 * torch.randn(tokens, WIDTH, generator=generator)
        begin, begin_busy = time.perf_counter(), time.process_time()
        latents = sae.encode(x)
        residual = x - sae.decode(latents, x)
        found = refine(sae, latents, residual)
        after = x - sae.decode(found.latents, x)
        seconds += time.perf_counter() - begin
        busy += time.process_time() - begin_busy
        errors += float(residual.square().sum())
        refined_errors += float(after.square().sum())
        converged += int(found.converged.sum())
    note = (
        f"encoding and decoding included; {converged / TOKENS:.2%} of tokens converged, "
        f"squared error {refined_errors / errors:.2f} of what it was; "
        f"{torch.get_num_threads()} threads, {busy:.0f} s of processor time"
    )
    return [Row("100,000 tokens refined", f"{seconds:.0f} s", "120 s", note)]
