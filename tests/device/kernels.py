"""The sparse products on the device against dense ones, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.sae.sparse_ops import Entries, gpu_kernels, sparse_decode
from tests.device.sizes import Sizes

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
"""Largest error, relative to the largest value of the reference."""


def run(sizes: Sizes) -> dict[str, Any]:
    """Errors by type and number of latents, and whether Triton's kernels were used."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for latents in sizes.latents:
            rows += check(sizes, latents, dtype)
    return {"correct": all(row["correct"] for row in rows), "rows": rows}


def check(sizes: Sizes, latents: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(latents)
    columns = torch.randint(latents, (sizes.tokens, sizes.k), generator=generator).sort(dim=1).values.to(sizes.device)
    entries = Entries.regular(columns)
    weights = torch.rand(columns.numel(), generator=generator).to(sizes.device)
    made = torch.Generator(sizes.device).manual_seed(latents)
    table = torch.randn(latents, sizes.width, generator=made, device=sizes.device, dtype=torch.float32).to(dtype)
    source = torch.randn(sizes.tokens, sizes.width, generator=made, device=sizes.device).to(dtype)
    used = gpu_kernels(table) is not None
    ours = _ours(entries, weights.to(dtype), table, source)
    expected = _reference(entries, weights.to(dtype).float(), table, source)
    name = str(dtype).removeprefix("torch.")
    found = []
    for what, mine, theirs in zip(("decoded", "gradient of values", "gradient of decoder"), ours, expected, strict=True):
        error = float((mine.float() - theirs).abs().max() / theirs.abs().max())
        found.append({
            "what": what, "dtype": name, "latents": latents, "triton": used, "relative_error": error,
            "correct": error <= TOLERANCE[name],
        })  # fmt: skip
    return found


def _ours(entries: Entries, weights: Tensor, table: Tensor, source: Tensor) -> list[Tensor]:
    values, decoder = weights.clone().requires_grad_(), table.clone().requires_grad_()
    decoded = sparse_decode(entries, values, decoder)
    (decoded.float() * source.float()).sum().backward()
    assert values.grad is not None and decoder.grad is not None
    return [decoded.detach(), values.grad, decoder.grad]


def _reference(entries: Entries, weights: Tensor, table: Tensor, source: Tensor) -> list[Tensor]:
    """The same by plain gathering in float32; the dense ``[tokens, latents]`` is never made."""
    gathered = table.float()[entries.columns]
    zeros = torch.zeros(entries.tokens, table.shape[1], device=table.device)
    decoded = zeros.index_add(0, entries.rows, weights.unsqueeze(1) * gathered)
    picked = source.float()[entries.rows]
    to_table = torch.zeros(table.shape, device=table.device).index_add_(0, entries.columns, weights.unsqueeze(1) * picked)
    return [decoded, (gathered * picked).sum(dim=1), to_table]
