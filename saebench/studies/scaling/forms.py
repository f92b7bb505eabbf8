"""The forms of Gao et al. 2024, section 3: power laws in compute or size, and the joint law of size and sparsity."""

from __future__ import annotations

import numpy as np

from saebench.studies.scaling.laws import SHARES, Array, Form


def _solve(features: Array, logs: Array) -> Array:
    return np.asarray(np.linalg.lstsq(features, logs, rcond=None)[0])


def _ones(features: Array) -> Array:
    return np.column_stack([np.ones(features.shape[0]), features])


def _power(parameters: Array, features: Array) -> Array:
    return np.asarray(parameters[0] - parameters[1] * features[:, 0])


def _power_starts(features: Array, logs: Array) -> list[Array]:
    slope = _solve(_ones(features), logs)
    return [np.array([slope[0], -slope[1]])]


def _power_natural(parameters: Array, centres: Array) -> Array:
    return np.array([parameters[0] + parameters[1] * centres[0], parameters[1]])


def _offset(parameters: Array, features: Array) -> Array:
    return np.asarray(np.logaddexp(parameters[0], _power(parameters[1:], features)))


def _offset_starts(features: Array, logs: Array) -> list[Array]:
    least = logs.min()
    starts = []
    for share in SHARES[::-1]:
        rest = np.log(np.maximum(np.exp(logs) - share * np.exp(least), 1e-3 * np.exp(least)))
        starts.append(np.concatenate([[least + np.log(share)], _power_starts(features, rest)[0]]))
    return starts[2:] + starts[:2]  # middle shares first


def _offset_natural(parameters: Array, centres: Array) -> Array:
    return np.concatenate([[np.exp(parameters[0])], _power_natural(parameters[1:], centres)])


def power(variable: str) -> Form:
    """``L = exp(log_coefficient) * x^-exponent``; its logarithm is readable even with an undetermined exponent."""
    return Form(
        f"L({variable}) without irreducible term", ("log_coefficient", "exponent"), _power, _power_starts, _power_natural
    )


def power_with_offset(variable: str) -> Form:
    """``L = irreducible + exp(log_coefficient) * x^-exponent``."""
    names = ("irreducible", "log_coefficient", "exponent")
    return Form(f"L({variable})", names, _offset, _offset_starts, _offset_natural)


def _design(features: Array) -> Array:
    """Columns 1, log k, log n, log k log n."""
    return np.column_stack([_ones(features), features[:, 0] * features[:, 1]])


def _joint(parameters: Array, features: Array) -> Array:
    return np.asarray(_design(features) @ parameters)


def _joint_starts(features: Array, logs: Array) -> list[Array]:
    return [_solve(_design(features), logs)]


def _joint_natural(p: Array, centres: Array) -> Array:
    k, n = centres
    return np.array([p[0] - p[1] * k - p[2] * n + p[3] * k * n, p[1] - p[3] * n, p[2] - p[3] * k, p[3]])


def _joint_offset(parameters: Array, features: Array) -> Array:
    irreducible = parameters[4] + parameters[5] * features[:, 0]
    return np.asarray(np.logaddexp(_joint(parameters[:4], features), irreducible))


def _joint_offset_starts(features: Array, logs: Array) -> list[Array]:
    """The irreducible part as a share of the smallest loss at each k, a power law of k; the rest by least squares."""
    sparsities = np.unique(features[:, 0])
    least = np.array([logs[features[:, 0] == each].min() for each in sparsities])
    line = _solve(np.column_stack([np.ones(sparsities.size), sparsities]), least)
    line[0] -= max(0.0, float(np.max(line[0] + line[1] * sparsities - least)))  # below every loss
    starts = []
    for share in SHARES[::-1]:
        irreducible = np.exp(line[0] + line[1] * features[:, 0]) * share
        rest = np.log(np.maximum(np.exp(logs) - irreducible, 1e-3 * np.exp(logs)))
        starts.append(np.concatenate([_solve(_design(features), rest), [line[0] + np.log(share), line[1]]]))
    return starts[2:] + starts[:2]


def _joint_offset_natural(parameters: Array, centres: Array) -> Array:
    slope = parameters[5]
    return np.concatenate([_joint_natural(parameters[:4], centres), [parameters[4] - slope * centres[0], slope]])


JOINT_REDUCED = Form(
    "L(n, k) without irreducible term", ("alpha", "beta_k", "beta_n", "gamma"), _joint, _joint_starts, _joint_natural
)
"""``L = exp(alpha + beta_k ln k + beta_n ln n + gamma ln k ln n)``; features are ``ln k`` and ``ln n``."""

JOINT = Form(
    "L(n, k)",
    ("alpha", "beta_k", "beta_n", "gamma", "zeta", "eta"),
    _joint_offset,
    _joint_offset_starts,
    _joint_offset_natural,
)
"""The same plus ``exp(zeta + eta ln k)``, what no number of latents removes (Gao et al. 2024, section 3.1.3)."""
