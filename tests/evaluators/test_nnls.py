from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from saebench.evaluators.codes.nnls import solve


def objective(gram: torch.Tensor, linear: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bi,bij,bj->b", values, gram, values) / 2 - (linear * values).sum(dim=1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 10**6), st.floats(0, 2))
def test_equals_scipy_one_problem_at_a_time(k: int, d: int, seed: int, common: float) -> None:
    """Also where there are more coordinates than dimensions and where directions are nearly alike."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(6, k, d, generator=generator, dtype=torch.float64)
    directions += common * torch.randn(6, 1, d, generator=generator, dtype=torch.float64)
    targets = torch.randn(6, d, generator=generator, dtype=torch.float64)
    start = torch.rand(6, k, generator=generator, dtype=torch.float64)
    live = torch.rand(6, k, generator=generator) < 0.8
    gram = directions @ directions.transpose(1, 2)
    linear = (directions @ targets.unsqueeze(2)).squeeze(2)
    found = solve(gram, linear, start, live)
    assert bool((found.values >= 0).all()) and bool((found.values[~live] == 0).all())
    before, after = objective(gram, linear, start * live), objective(gram, linear, found.values)
    assert bool((after <= before + 1e-12 * before.abs()).all())
    for problem in range(6):
        some = live[problem]
        error = directions[problem].T @ found.values[problem] - targets[problem]
        best = 0.0 if not bool(some.any()) else nnls(directions[problem][some].T.numpy(), targets[problem].numpy())[1]
        expected = best if bool(some.any()) else float(targets[problem].norm())
        assert float(error.norm()) == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_the_values_themselves_where_they_are_determined() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(200, 10, 40, generator=generator, dtype=torch.float64), dim=2)
    targets = torch.randn(200, 40, generator=generator, dtype=torch.float64)
    gram = directions @ directions.transpose(1, 2)
    linear = (directions @ targets.unsqueeze(2)).squeeze(2)
    found = solve(gram, linear, torch.ones(200, 10), torch.ones(200, 10, dtype=torch.bool))
    assert bool(found.converged.all())
    expected = [nnls(each.T.numpy(), target.numpy())[0] for each, target in zip(directions, targets, strict=True)]
    np.testing.assert_allclose(found.values.numpy(), np.stack(expected), atol=1e-7)
    assert bool((found.values == 0).any()) and bool((found.values > 0).any())


def test_equal_directions_share_what_is_theirs() -> None:
    gram = torch.ones(1, 2, 2, dtype=torch.float64)
    found = solve(gram, torch.ones(1, 2), torch.tensor([[0.2, 0.3]]), torch.ones(1, 2, dtype=torch.bool))
    assert float(found.values.sum()) == pytest.approx(1)
    assert found.values[0].tolist() == pytest.approx([0.45, 0.55], abs=1e-6)
