from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saebench.evaluators.splicing.effects import effect, median

V, T = 50, 16


def sparsity(change: torch.Tensor) -> float:
    reference = torch.randn(change.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float(effect((reference + change).unsqueeze(0), reference).sparsity)


def test_one_logit_is_one_pair_of_all() -> None:
    change = torch.zeros(T, V, dtype=torch.float64)
    change[3, 17] = 2.5
    found = effect(change.unsqueeze(0).clone(), torch.zeros(T, V, dtype=torch.float64))
    assert float(found.sparsity) == pytest.approx(1 / (V * T))
    assert float(found.size) == pytest.approx(2.5)


def test_what_the_median_leaves_is_counted() -> None:
    """By hand: half of the words up by 1 and half down by 1 leave all V words of one position; at all positions, all."""
    change = torch.zeros(T, V, dtype=torch.float64)
    change[0] = torch.tensor([1.0, -1.0]).repeat(V // 2) + 7
    assert sparsity(change) == pytest.approx(1 / T)
    assert sparsity(change[:1].repeat(T, 1)) == pytest.approx(1)
    change[0] = 0
    change[0, :10] = 1.0  # the median stays 0: ten words of V T
    assert sparsity(change) == pytest.approx(10 / (V * T))
    change[1, :5] = 2.0  # (10 + 10)^2 / (10 + 20)
    assert sparsity(change) == pytest.approx(400 / 30 / (V * T))


def test_a_shift_of_all_words_alike_is_no_effect() -> None:
    logits = torch.zeros(1, T, V) + 3
    found = effect(logits, torch.zeros(T, V))
    assert float(found.size) == 0
    assert not bool(found.sparsity.isfinite())


@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 10**6))
def test_the_median_is_numpys(rows: int, columns: int, seed: int) -> None:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    np.testing.assert_allclose(median(values).numpy(), np.median(values.numpy(), axis=1), rtol=1e-6)


def test_a_batch_is_its_members_one_by_one() -> None:
    logits = torch.randn(5, T, V, generator=torch.Generator().manual_seed(1))
    reference = torch.randn(T, V, generator=torch.Generator().manual_seed(2))
    together = effect(logits.clone(), reference)
    change = (logits - reference).double().numpy()
    change -= np.median(change, axis=2, keepdims=True)
    expected = np.abs(change).sum(axis=(1, 2)) ** 2 / (change**2).sum(axis=(1, 2)) / (V * T)
    np.testing.assert_allclose(together.sparsity.numpy(), expected, rtol=1e-5)
    alone = torch.cat([effect(one.clone(), reference).sparsity for one in logits.split(1)])
    torch.testing.assert_close(together.sparsity, alone)
