"""The solver against scikit-learn, and on what has no minimum."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from saebench.probing import newton
from saebench.probing.newton import fit_probes

Floats = NDArray[np.float64]


def test_a_search_that_starts_near_the_optimum_ends_at_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    values = torch.randn(40, 200, generator=generator) * 3 + 5 + labels * torch.rand(40, 1, generator=generator)
    values[0] = 7.0  # constant
    values[1] = labels + 0.1 * values[1]  # separable
    coarse = fit_probes(values, labels)
    alone = fit_probes(values.double(), labels)
    for shift in (1.0, 0.2):
        near = fit_probes(values.double(), labels, (coarse.weight * shift, coarse.bias))
        assert bool(near.converged.all())
        torch.testing.assert_close(near.loss, alone.loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(near.weight, alone.weight, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(near.bias, alone.bias, rtol=1e-7, atol=1e-8)


def problem(number: int) -> tuple[Floats, NDArray[np.int64]]:
    """Normal classes, separable, rectified, badly scaled, heavy-tailed and touching ones, in turn."""
    rng = np.random.default_rng(number)
    n = int(rng.integers(6, 300))
    y = (rng.random(n) < rng.uniform(0.1, 0.9)).astype(np.int64)
    y[0], y[1] = 0, 1
    x = rng.normal(size=n) + y * rng.uniform(0, 4) * rng.choice([-1, 1])
    kind = number % 6
    if kind == 1:
        x = np.where(y == 1, rng.uniform(1, 2, n), rng.uniform(-1, 0.9, n))
    elif kind == 2:
        x = np.maximum(x, 0)
    elif kind == 3:
        x = x * 10 ** rng.uniform(-3, 3) + rng.normal() * 10
    elif kind == 4:
        x = rng.standard_t(1.5, size=n) + y * rng.uniform(0, 2)
    elif kind == 5:
        x = np.where((y == 1) & (rng.random(n) < 0.7), rng.uniform(0, 2, n), 0)
    return x, y


def reference_loss(x: Floats, y: NDArray[np.int64]) -> float:
    scaled = ((x - x.mean()) / (x.std() or 1))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(penalty=None, tol=1e-10, max_iter=100_000, solver="newton-cholesky").fit(scaled, y)
    logits = model.decision_function(scaled)
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_scikit_learn_on_500_problems(dtype: torch.dtype) -> None:
    separable = 0
    for number in range(500):
        x, y = problem(number)
        found = fit_probes(torch.tensor(x, dtype=dtype)[None], torch.tensor(y))
        assert bool(found.converged), number
        assert abs(float(found.loss) - reference_loss(x, y)) < 1e-4, number
        separable += bool(found.separable)
    assert separable > 100


def test_many_at_once_equal_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(80, generator=generator) < 0.4).long()
    values = torch.randn(50, 80, generator=generator) * torch.logspace(-3, 3, 50)[:, None] + labels
    values[3] = 7.0
    values[4] = labels.float()
    monkeypatch.setattr(newton, "BLOCK_ELEMENTS", 80 * 8)
    together = fit_probes(values, labels)
    for row in range(50):
        alone = fit_probes(values[row : row + 1], labels)
        assert float(together.loss[row]) == pytest.approx(float(alone.loss), abs=1e-6)
        assert bool(together.separable[row]) == bool(alone.separable)


def test_order_of_examples_and_affine_maps_do_not_matter() -> None:
    x, y = problem(0)
    values, labels = torch.tensor(x)[None], torch.tensor(y)
    first = fit_probes(values, labels)
    order = torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(1))
    second = fit_probes(-40 * values[:, order] + 11, labels[order])
    assert float(first.loss) == pytest.approx(float(second.loss), abs=1e-9)
    assert float(second.weight) == pytest.approx(float(first.weight) / -40, rel=1e-5)


def test_separable_classes_have_the_infimum_zero_and_a_finite_probe() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    found = fit_probes(torch.tensor([[1.0, 2.0, 4.0, 9.0], [9.0, 4.0, 2.0, 1.0]]), labels)
    assert found.loss.tolist() == [0, 0]
    assert found.separable.all() and found.converged.all()
    logits = found.weight[:, None] * torch.tensor([[2.0, 3.0, 4.0], [4.0, 3.0, 2.0]]) + found.bias[:, None]
    edge = math.log(5)  # (N + 1) / (N + 2) at the nearest examples
    torch.testing.assert_close(logits, torch.tensor([[-edge, 0.0, edge]] * 2))


def test_classes_that_touch_in_one_value_have_the_entropy_there() -> None:
    # Zero for both of label 0 and one of label 1: within those three the best prediction is 1/3.
    found = fit_probes(torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0]]), torch.tensor([0, 0, 1, 1, 1]))
    entropy = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
    assert float(found.loss) == pytest.approx(3 / 5 * entropy, rel=1e-6)
    assert bool(found.separable) and float(found.bias) == pytest.approx(math.log(1 / 2), rel=1e-5)


def test_constant_values_give_the_entropy_of_the_classes() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    found = fit_probes(torch.tensor([[5.0] * 4, [0.0] * 4]), labels)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(found.loss, torch.tensor([entropy, entropy]))
    torch.testing.assert_close(found.bias, torch.full((2,), math.log(3)))
    assert not found.separable.any() and not found.weight.any() and found.converged.all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_costs_nothing_and_stays_finite(label: int) -> None:
    found = fit_probes(torch.randn(3, 6), torch.full((6,), label))
    assert not found.loss.any() and not found.weight.any()
    torch.testing.assert_close(found.bias, torch.full((3,), math.log(7) * (2 * label - 1)))


def test_far_outliers_do_not_keep_the_others_from_their_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 2
    values = torch.randn(1, 1000, generator=generator, dtype=torch.float64) + labels
    values[0, 0] = -1e5
    found = fit_probes(values, labels)
    assert bool(found.converged)
    assert float(found.loss) == pytest.approx(reference_loss(values[0].numpy(), labels.numpy()), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.integers(0, 1)), min_size=2, max_size=30),
)
def test_never_worse_than_a_constant_and_never_undefined(examples: list[tuple[float, int]]) -> None:
    values = torch.tensor([[x for x, _ in examples]])
    labels = torch.tensor([y for _, y in examples])
    found = fit_probes(values, labels)
    share = float(labels.double().mean())
    constant = 0.0 if share in (0, 1) else -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert -1e-6 <= float(found.loss) <= constant + 1e-6
    assert bool(torch.isfinite(found.weight)) and bool(torch.isfinite(found.bias))


def test_best_prefers_the_wider_gap_among_separable_ones() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    values = torch.tensor([[0.0, 5.0, 4.0, 9.0], [0.0, 4.9, 5.0, 9.0], [0.0, 1.0, 8.0, 9.0]])
    assert fit_probes(values, labels).best(3).tolist() == [2, 1, 0]


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_probes(torch.tensor([[0.0, math.nan, 1.0]]), torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="no example"):
        fit_probes(torch.zeros(2, 0), torch.zeros(0))
