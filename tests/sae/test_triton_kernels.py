"""The Triton kernels give what PyTorch gives; they run in Triton's interpreter, so no GPU is needed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

SCRIPT = """
import torch
from saebench.sae import sparse_ops, triton_kernels
from saebench.sae.sparse_ops import Entries, dot_rows, sparse_decode, sum_by_latent, sum_rows

generator = torch.Generator().manual_seed(0)
tokens, n, d = 20, 50, 300  # d is no multiple of a block
kept = torch.rand(tokens, n, generator=generator) < 0.1
kept[3] = False  # a token without latents
rows, columns = kept.nonzero(as_tuple=True)
entries = Entries(rows, columns, tokens)
weights = torch.randn(rows.numel(), generator=generator)
table, source = torch.randn(n, d, generator=generator), torch.randn(tokens, d, generator=generator)

def all_of_them():
    values, decoder = weights.clone().requires_grad_(), table.clone().requires_grad_()
    decoded = sparse_decode(entries, values, decoder)
    (decoded * source).sum().backward()
    return [sum_rows(entries, weights, table), sum_by_latent(entries, weights, source, n), dot_rows(entries, source, table),
            decoded.detach(), values.grad, decoder.grad]

plain = all_of_them()
sparse_ops.gpu_kernels = lambda table: triton_kernels
for ours, expected in zip(all_of_them(), plain, strict=True):
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
halves = triton_kernels.dots(rows, columns, source.half(), table.half())
torch.testing.assert_close(halves.float(), plain[2], rtol=2e-2, atol=5e-2)
assert triton_kernels.dots(rows[:0], columns[:0], source, table).shape == (0,)
print("same")
"""


def test_kernels_and_fallback_agree() -> None:
    import os

    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "same"


def test_a_cpu_uses_the_fallback() -> None:
    from saebench.sae.sparse_ops import gpu_kernels

    assert gpu_kernels(torch.zeros(2, 2)) is None
