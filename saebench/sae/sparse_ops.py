"""Products with sparse codes and their gradients, without dense latents.

A code is a list of entries: token ``rows[e]``, latent ``columns[e]``, value ``values[e]``, sorted by token. Both gradients
that are sums over entries of one latent are computed by sorting the entries by latent and summing bags of rows, so that
no output row is written twice and all cores are used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.notices import notice

SUM_MODE, NO_PADDING = 0, -1  # of PyTorch's embedding bags


class Kernels(Protocol):
    """The functions of ``triton_kernels``."""

    def bags(self, offsets: Tensor, places: Tensor, weights: Tensor, table: Tensor) -> Tensor:
        """``triton_kernels.bags``."""

    def dots(self, rows: Tensor, columns: Tensor, left: Tensor, table: Tensor) -> Tensor:
        """``triton_kernels.dots``."""


class Entries(NamedTuple):
    """The places of a sparse code: entry ``e`` is latent ``columns[e]`` at token ``rows[e]``, sorted by token."""

    rows: Tensor  # [entries] int64
    columns: Tensor  # [entries] int64
    tokens: int

    @staticmethod
    def regular(columns: Tensor) -> Entries:
        """From ``[tokens, k]`` latent numbers: the same number for each token."""
        tokens, k = columns.shape
        rows = torch.arange(tokens, device=columns.device).repeat_interleave(k)
        return Entries(rows, columns.reshape(-1), tokens)


def gpu_kernels(table: Tensor) -> Kernels | None:
    """The Triton kernels where they can be used: on a GPU, with Triton installed, for contiguous rows.

    On a GPU without them a notice says so; on a CPU PyTorch's own operations are the usual path.
    """
    if not table.is_cuda:
        return None
    kernels = _triton_kernels()
    if kernels is None:
        notice("Sparse codes are decoded by PyTorch, more slowly: Triton is not installed (pip install 'saebench[gpu]').")
    elif not table.is_contiguous():
        notice("Sparse codes are decoded by PyTorch, more slowly: the decoder's rows are not contiguous in memory.")
        return None
    return kernels


@cache
def _triton_kernels() -> Kernels | None:
    try:
        from saebench.sae import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def sum_rows(entries: Entries, weights: Tensor, table: Tensor) -> Tensor:
    """``[tokens, d]``: for each token the sum over its entries of ``weights[e] * table[columns[e]]`` (``[n, d]``)."""
    return _bags(entries.rows, entries.columns, weights, table, entries.tokens)


def sum_by_latent(entries: Entries, weights: Tensor, source: Tensor, n_latents: int) -> Tensor:
    """``[n, d]``: for each latent the sum over its entries of ``weights[e] * source[rows[e]]`` (``[tokens, d]``)."""
    columns, order = entries.columns.sort()
    return _bags(columns, entries.rows[order], weights[order], source, n_latents)


def _bags(sorted_keys: Tensor, places: Tensor, weights: Tensor, table: Tensor, size: int) -> Tensor:
    counts = torch.bincount(sorted_keys, minlength=size)
    stops = counts.cumsum(0)
    kernels = gpu_kernels(table)
    if kernels is not None:
        return kernels.bags(F.pad(stops, (1, 0)), places, weights, table)
    return F.embedding_bag(places, table, stops - counts, per_sample_weights=weights.to(table.dtype), mode="sum")


def dot_rows(entries: Entries, left: Tensor, table: Tensor) -> Tensor:
    """``[entries]``: ``left[rows[e]] . table[columns[e]]``, without gathering ``[entries, d]``.

    It is the gradient of ``sum_rows`` with respect to its weights, which PyTorch has as an operator of its own.
    """
    kernels = gpu_kernels(table)
    if kernels is not None:
        return kernels.dots(entries.rows, entries.columns, left.contiguous(), table)
    counts = torch.bincount(entries.rows, minlength=entries.tokens)
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, table, entries.columns, counts.cumsum(0) - counts, entries.rows, SUM_MODE, NO_PADDING
    )
    return dots


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, table: Tensor, rows: Tensor, columns: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(values, table, rows, columns)
        ctx.tokens = tokens
        return sum_rows(Entries(rows, columns, tokens), values, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, table, rows, columns = ctx.saved_tensors
        entries, gradient = Entries(rows, columns, ctx.tokens), gradients[0].contiguous()
        to_values = dot_rows(entries, gradient, table) if ctx.needs_input_grad[0] else None
        to_table = sum_by_latent(entries, values, gradient, table.shape[0]) if ctx.needs_input_grad[1] else None
        return to_values, to_table, None, None, None


def sparse_decode(entries: Entries, values: Tensor, table: Tensor) -> Tensor:
    """``z @ table`` for a sparse code: ``[tokens, d]``, with gradients to ``values`` (``[entries]``) and ``table``."""
    out: Tensor = _Decode.apply(values, table, entries.rows, entries.columns, entries.tokens)  # type: ignore[no-untyped-call]
    return out


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, picked: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(x, encoder, rows, columns)
        return picked.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, encoder, rows, columns = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        entries = Entries(rows, columns, x.shape[0])
        to_encoder = sum_by_latent(entries, gradient, x, encoder.shape[0]) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros(encoder.shape[0], dtype=gradient.dtype, device=x.device).index_add_(0, columns, gradient)
        to_x = sum_rows(entries, gradient, encoder) if ctx.needs_input_grad[0] else None
        return to_x, to_encoder, to_bias, None, None, None


def pick_pre_activations(x: Tensor, encoder: Tensor, bias: Tensor, pre: Tensor, entries: Entries) -> Tensor:
    """``[entries]``: pre-activations of the picked latents, with gradients for these alone.

    Args:
        x: ``[tokens, d]``, what the encoder reads.
        encoder: ``[n, d]``; ``bias``: ``[n]``.
        pre: ``[tokens, n]``, ``x @ encoder.T + bias``, computed without gradients.
        entries: which latents of which tokens.
    """
    picked = pre[entries.rows, entries.columns]
    out: Tensor = _Pick.apply(x, encoder, bias, picked, entries.rows, entries.columns)  # type: ignore[no-untyped-call]
    return out
