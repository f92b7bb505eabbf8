"""Matrix products in float32 on processors for which MKL has no kernels of full width."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")
PROBE = 256
"""Rows and columns of the product by which the precision is checked."""

TOLERANCE = 1e-5
"""Largest error of that product, relative to its largest value: float32 makes 4e-7, bfloat16 4e-3."""


@functools.cache
def use_fast_products() -> bool:
    """Let this process multiply float32 matrices with oneDNN, where MKL is slower: on AMD processors with AVX-512.

    MKL uses half of their units. torch gives float32 products to oneDNN only with the permission to round to bfloat16
    (``torch.set_float32_matmul_precision("medium")``); oneDNN uses that permission on processors with matrix units (AMX)
    alone, so that on these, without them, products stay float32. A product is compared with float64's to be sure; where it
    is not float32, nothing is changed. Nor is it where there is an accelerator, whose products the permission would round,
    or where the process has chosen a precision itself. Products then differ from MKL's by rounding in the order of sums.

    Returns:
        Whether products are oneDNN's from now on.
    """
    if not _mkl_is_slow() or torch.accelerator.is_available():
        return False
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return False
    except RuntimeError:  # chosen for one backend alone
        return False
    torch.set_float32_matmul_precision("medium")
    if _error_of_a_product() <= TOLERANCE:
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def _mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512 and without AMX, and products are MKL's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        facts = CPU_FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in facts and " avx512vl" in facts and "amx_tile" not in facts


def _error_of_a_product() -> float:
    """Of a float32 product, relative to its largest value."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(PROBE, PROBE, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    return float(((left @ right).double() - exact).abs().max() / exact.abs().max())
