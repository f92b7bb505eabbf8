"""Logistic regression with an L2 penalty on a few values, to its optimum.

``min over w, b of C * sum(softplus(z) - y z) + |w|^2 / 2`` with ``z = x w + b``, as scikit-learn's ``LogisticRegression``.
There is one optimum where both labels occur, so that Newton's method with a line search ends at the same, and closer to it
than scikit-learn's default solver, which stops at a gradient of 1e-4.

Not done here: other penalties, weights of examples, more than two classes, very many columns (the Hessian is dense).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

Matrix = NDArray[np.float64]
Values = Any
"""``[texts, width]``: a sparse matrix of scipy, which has no types, or a dense array."""

MOST_STEPS = 200
LAST_DECREMENT = 1e-12
"""Newton's decrement (twice the fall of the objective that is left) below which the step now taken is the last: with
quadratic convergence nothing is left after it."""
SAFE_CHANGE = 1.5
"""Most that a logit may change in a full step that is taken unseen: a change of R lets the objective fall by at least
``1 - (e^R - 1 - R) / R^2`` of the decrement (Bach 2010, "Self-concordant analysis for logistic regression", section 2)."""


def fit_ridge(values: Matrix, labels: NDArray[np.int64], strength: float) -> tuple[Matrix, float]:
    """``(weight [k], bias)`` of the optimum.

    Args:
        values: ``[examples, k]`` float64.
        labels: ``[examples]``, 0 or 1; both must occur.
        strength: ``C``; a smaller one is a stronger penalty.

    Raises:
        ValueError: there is only one label, or a value is not finite.
    """
    share = float(np.mean(labels))
    if not 0 < share < 1 or not np.isfinite(values).all():
        raise ValueError("a probe needs examples of both labels and finite values")
    mean = values.mean(axis=0)  # the bias makes up for it, and the Hessian is well conditioned
    x = np.column_stack([values - mean, np.ones(len(values))])
    penalty = np.ones(x.shape[1])
    penalty[-1] = 0.0  # not of the bias
    y = labels.astype(np.float64)
    found = np.zeros(x.shape[1])
    found[-1] = np.log(share / (1 - share))
    logits = x @ found
    for _ in range(MOST_STEPS):
        step, decrement = _newton_step(x, y, logits, found, penalty, strength)
        change = x @ step
        length = 1.0
        if np.abs(change).max() > SAFE_CHANGE:
            length = _length(change, y, logits, found, step, penalty, strength, decrement)
        found = found + length * step
        logits = logits + length * change
        if decrement <= LAST_DECREMENT:
            break
    return found[:-1], float(found[-1] - found[:-1] @ mean)


def as_dense(values: Values) -> Matrix:
    """``[texts, width]``, also of a sparse matrix."""
    found: Matrix = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return found


def in_span(values: Values, others: Values) -> tuple[Matrix, Matrix]:
    """Both in coordinates of the span of ``values``, which has at most as many dimensions as rows.

    A regression with an L2 penalty gives the same logits in them: its weights are in the span.
    """
    rows, width = values.shape
    if width <= rows:
        return as_dense(values), as_dense(others)
    sizes, vectors = np.linalg.eigh(as_dense(values @ values.T))
    kept = sizes > sizes[-1] * 1e-12
    lengths = np.sqrt(sizes[kept])
    return vectors[:, kept] * lengths, as_dense(others @ values.T) @ (vectors[:, kept] / lengths)


def ridge_logits(values: Matrix, labels: NDArray[np.int64], strength: float, others: Matrix) -> Matrix:
    """``[texts]``: logits of ``others`` (``[texts, k]``) by the regression on ``values``; see ``fit_ridge``."""
    weight, bias = fit_ridge(values, labels, strength)
    found: Matrix = others @ weight + bias
    return found


def _newton_step(x: Matrix, y: Matrix, logits: Matrix, at: Matrix, penalty: Matrix, strength: float) -> tuple[Matrix, float]:
    """Minus the inverse Hessian times the gradient, and Newton's decrement."""
    p = expit(logits)
    gradient = strength * (x.T @ (p - y)) + penalty * at
    hessian = strength * ((x.T * (p * (1 - p))) @ x)
    diagonal = np.einsum("ii->i", hessian)
    diagonal += penalty
    diagonal[-1] += 1e-12  # of the bias alone, which has no penalty: all probabilities can be 0 or 1 on the way
    step = -np.linalg.solve(hessian, gradient)
    return step, float(-gradient @ step)


def _length(
    change: Matrix, y: Matrix, logits: Matrix, at: Matrix, step: Matrix, penalty: Matrix, strength: float, decrement: float
) -> float:
    """The first of 1, 1/2, 1/4, ... by which the objective falls enough (Armijo's rule)."""
    before = _objective(logits, y, at, penalty, strength)
    length = 1.0
    while length > 1e-10:
        after = _objective(logits + length * change, y, at + length * step, penalty, strength)
        if after <= before - 1e-4 * length * decrement:
            break
        length /= 2
    return length


def _objective(logits: Matrix, y: Matrix, at: Matrix, penalty: Matrix, strength: float) -> float:
    return float(strength * (np.logaddexp(0.0, logits) - y * logits).sum() + (penalty * at * at).sum() / 2)
