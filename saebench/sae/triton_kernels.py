"""The two sparse products of ``sparse_ops`` as Triton kernels, for GPUs; ``sparse_ops`` falls back to PyTorch without them.

``bags`` is used for decoding (bags are tokens), and for the gradients of decoder and encoder (bags are latents); ``dots``
is used for the gradient of the values. Sums are in float32 whatever the type of the tables. With ``TRITON_INTERPRET=1`` both
run on a CPU, slowly, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDTH_BLOCK, ENTRY_BLOCK = 256, 16


@triton.jit  # type: ignore[untyped-decorator]
def _bags_kernel(offsets, places, weights, table, out, width, table_stride, out_stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    start = tl.load(offsets + bag)
    stop = tl.load(offsets + bag + 1)
    for entry in range(start, stop):
        place = tl.load(places + entry)
        weight = tl.load(weights + entry).to(tl.float32)
        total += weight * tl.load(table + place * table_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + bag * out_stride + columns, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dots_kernel(rows, columns, left, table, out, count, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    entries = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = entries < count
    row = tl.load(rows + entries, mask=there, other=0)
    column = tl.load(columns + entries, mask=there, other=0)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        places = start + tl.arange(0, BLOCK)
        mask = there[:, None] & (places < width)[None, :]
        a = tl.load(left + row[:, None] * width + places[None, :], mask=mask, other=0.0).to(tl.float32)
        b = tl.load(table + column[:, None] * width + places[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(a * b, axis=1)
    tl.store(out + entries, total, mask=there)


def bags(offsets: Tensor, places: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """``[bags, d]``: for each bag the sum of ``weights[e] * table[places[e]]`` over ``e`` in ``offsets[bag:bag + 2]``.

    Args:
        offsets: ``[bags + 1]`` int64, where each bag's entries start; the last is the number of entries.
        places: ``[entries]`` int64; ``weights``: ``[entries]``; ``table``: ``[rows, d]``, contiguous.
    """
    size, width = offsets.numel() - 1, table.shape[1]
    out = torch.empty(size, width, dtype=table.dtype, device=table.device)
    grid = (size, triton.cdiv(width, WIDTH_BLOCK))
    _bags_kernel[grid](offsets, places, weights, table, out, width, table.stride(0), out.stride(0), BLOCK=WIDTH_BLOCK)
    return out


def dots(rows: Tensor, columns: Tensor, left: Tensor, table: Tensor) -> Tensor:
    """``[entries]``: ``left[rows[e]] . table[columns[e]]`` (both contiguous, ``[*, d]``)."""
    out = torch.empty(rows.numel(), dtype=left.dtype, device=left.device)
    grid = (triton.cdiv(rows.numel(), ENTRY_BLOCK),)
    if rows.numel():
        width = left.shape[1]
        _dots_kernel[grid](rows, columns, left, table, out, rows.numel(), width, ROWS=ENTRY_BLOCK, BLOCK=WIDTH_BLOCK)
    return out
