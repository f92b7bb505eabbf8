"""Float32 products by the faster library keep float32's precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from saebench.lm import products

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fma avx2 avx512f avx512vl avx512_bf16\n"


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """torch's choice as it is in a new process; it is put back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    products.use_fast_products.cache_clear()
    yield
    torch.set_float32_matmul_precision(before)
    products.use_fast_products.cache_clear()


def given(monkeypatch: pytest.MonkeyPatch, folder: Path, facts: str) -> None:
    """Let the processor be another one."""
    (folder / "cpuinfo").write_text(facts)
    monkeypatch.setattr(products, "CPU_FACTS", folder / "cpuinfo")


@pytest.mark.parametrize(
    "facts",
    ["", "vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512vl\n", AMD.replace(" avx512vl", ""), AMD + " amx_tile"],
)
def test_other_processors_keep_mkl(facts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, tmp_path, facts)
    assert not products.use_fast_products()
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_processor_that_rounds_keeps_mkl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, tmp_path, AMD)

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """In bfloat16, where float32 is asked for."""
        if left.dtype == torch.float64:
            return torch.matmul(left, right)
        return torch.matmul(left.bfloat16(), right.bfloat16()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert not products.use_fast_products()
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_are_float32() -> None:
    products.use_fast_products()
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(300, 576, generator=generator), torch.randn(576, 1000, generator=generator)
    exact = left.double() @ right.double()
    assert float(((left @ right).double() - exact).abs().max() / exact.abs().max()) < 3e-6


@pytest.mark.parametrize("accelerator", [True, False])
def test_an_accelerator_and_a_choice_of_ones_own_are_left_alone(
    accelerator: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given(monkeypatch, tmp_path, AMD)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    torch.set_float32_matmul_precision("highest" if accelerator else "high")
    assert not products.use_fast_products()
    assert torch.get_float32_matmul_precision() == ("highest" if accelerator else "high")
