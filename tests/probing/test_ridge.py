"""Logistic regression with an L2 penalty: the optimum that scikit-learn finds when it is made to go on to the end."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from saebench.probing.ridge import fit_ridge, ridge_logits

Matrix = NDArray[np.float64]


def texts(k: int, separation: float) -> tuple[Matrix, NDArray[np.int64]]:
    """120 texts of two classes; most values are 0, as latents are, and one column is constant where there are several."""
    draw = np.random.default_rng(k)
    labels = np.arange(120) % 2
    values = np.abs(draw.normal(size=(120, k))) * (draw.random((120, k)) < 0.4)
    values[:, 0] += separation * labels
    if k > 1:
        values[:, 1] = 2.5
    return values, labels


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("separation", [0.3, 8.0])
@pytest.mark.parametrize("strength", [1e-4, 1.0, 100.0])
def test_the_optimum_is_that_of_scikit_learn(k: int, separation: float, strength: float) -> None:
    values, labels = texts(k, separation)
    reference = LogisticRegression(C=strength, tol=1e-14, max_iter=100_000, solver="newton-cholesky").fit(values, labels)
    found = ridge_logits(values, labels, strength, values)
    np.testing.assert_allclose(found, reference.decision_function(values), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("strength", [1e-4, 1.0, 1e4])
def test_the_gradient_is_zero_at_the_optimum(strength: float) -> None:
    values, labels = texts(20, 8.0)
    weight, bias = fit_ridge(values * 30 - 200, labels, strength)
    left = 1 / (1 + np.exp(-((values * 30 - 200) @ weight + bias))) - labels
    scale = strength * np.abs(values * 30 - 200).sum()
    assert np.abs(strength * (values * 30 - 200).T @ left + weight).max() < 1e-9 * max(scale, 1.0)
    assert abs(strength * left.sum()) < 1e-9 * max(scale, 1.0)


def test_one_label_and_values_that_are_not_finite_are_refused() -> None:
    values, labels = texts(3, 1.0)
    with pytest.raises(ValueError, match="both labels"):
        fit_ridge(values, np.ones_like(labels), 1.0)
    values[4, 1] = np.inf
    with pytest.raises(ValueError, match="finite"):
        fit_ridge(values, labels, 1.0)
