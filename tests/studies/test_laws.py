"""Planted laws are recovered within their intervals; a term that is not there is not found; outliers do not decide."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.errors import SaebenchError
from saebench.studies.scaling.forms import JOINT, JOINT_REDUCED, power, power_with_offset
from saebench.studies.scaling.laws import Array, compare, fit

NOISE = 0.004


def noisy(losses: Array, seed: int) -> Array:
    return np.asarray(losses * np.exp(NOISE * np.random.default_rng(seed).standard_normal(losses.size)))


def sizes(count: int = 14) -> Array:
    return np.geomspace(2**9, 2**20, count)


def grid() -> tuple[Array, Array]:
    k, n = np.meshgrid(2.0 ** np.arange(3, 9), 2.0 ** np.arange(9, 19, 2))
    return k.ravel(), n.ravel()


@pytest.mark.parametrize("seed", range(4))
def test_a_power_law_with_irreducible_loss_is_recovered(seed: int) -> None:
    x = sizes()
    planted = {"irreducible": 0.09, "log_coefficient": np.log(1.4), "exponent": 0.31}
    losses = noisy(0.09 + 1.4 * x**-0.31, seed)
    found = compare(power_with_offset("N"), power("N"), np.log(x)[:, None], losses, bootstraps=120, seed=seed)
    for name, value in planted.items():
        low, high = found.full.intervals[name]
        assert low <= value <= high, (name, low, value, high)
        assert high - low < (0.8 if name == "log_coefficient" else 0.6 * value), f"the interval of {name} says nothing"
    assert found.p_value < 1e-4 and found.aicc_gain > 0 and found.preferred is found.full
    assert found.full.spread == pytest.approx(NOISE, rel=0.6)


@pytest.mark.parametrize("seed", range(3))
def test_an_irreducible_loss_that_is_not_there_is_not_found(seed: int) -> None:
    x = sizes()
    losses = noisy(1.4 * x**-0.2, seed + 10)
    found = compare(power_with_offset("N"), power("N"), np.log(x)[:, None], losses, bootstraps=60, seed=seed)
    assert found.p_value > 0.02
    assert found.full.values["irreducible"] < 0.5 * losses.min()
    low, high = found.reduced.intervals["exponent"]
    assert low <= 0.2 <= high and high - low < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_law_is_recovered(seed: int) -> None:
    """With the coefficients that Gao et al. give, at six sparsities and five sizes."""
    k, n = grid()
    planted = {"alpha": -0.50, "beta_k": 0.26, "beta_n": -0.17, "gamma": -0.042, "zeta": -1.9, "eta": -0.085}
    law = np.exp(-0.50 + 0.26 * np.log(k) - 0.17 * np.log(n) - 0.042 * np.log(k) * np.log(n))
    losses = noisy(law + np.exp(-1.9 - 0.085 * np.log(k)), seed)
    found = compare(JOINT, JOINT_REDUCED, np.log(np.column_stack([k, n])), losses, bootstraps=60, seed=seed)
    assert found.p_value < 1e-4
    within = [low <= planted[name] <= high for name, (low, high) in found.full.intervals.items()]
    assert sum(within) >= 5 and within[list(planted).index("beta_n")]
    assert found.full.predict(np.log(np.column_stack([k, n]))) == pytest.approx(losses, rel=4 * NOISE)


def test_parameters_are_those_of_uncentred_logarithms() -> None:
    """Without noise, coefficients come out exactly as planted."""
    k, n = grid()
    logs = np.log(np.column_stack([k, n]))
    losses = np.exp(0.3 + 0.2 * logs[:, 0] - 0.1 * logs[:, 1] - 0.01 * logs[:, 0] * logs[:, 1])
    found = fit(JOINT_REDUCED, logs, losses, bootstraps=0)
    assert list(found.values.values()) == pytest.approx([0.3, 0.2, -0.1, -0.01], abs=1e-6)
    exact = fit(power_with_offset("C"), np.log(sizes())[:, None], 0.05 + 2 * sizes() ** -0.4, bootstraps=0)
    assert list(exact.values.values()) == pytest.approx([0.05, np.log(2), 0.4], rel=1e-3)


def test_one_run_gone_wrong_does_not_decide() -> None:
    x = sizes()
    losses = noisy(1.4 * x**-0.2, 3)
    losses[5] *= 1.5
    robust = fit(power("N"), np.log(x)[:, None], losses, bootstraps=0)
    plain = -np.polyfit(np.log(x), np.log(losses), 1)[0]
    assert abs(robust.values["exponent"] - 0.2) < 0.002 < abs(plain - 0.2)


def test_too_few_points_are_refused_with_the_number_needed() -> None:
    x = sizes(4)
    with pytest.raises(SaebenchError, match="at least 6 points; there are 4"):
        compare(power_with_offset("N"), power("N"), np.log(x)[:, None], x**-0.2)
    with pytest.raises(SaebenchError, match="positive"):
        fit(power("N"), np.log(sizes())[:, None], np.zeros(14))


def test_the_same_seed_gives_the_same_intervals() -> None:
    x = sizes()
    losses = noisy(0.09 + 1.4 * x**-0.31, 0)
    one, other, third = (
        fit(power_with_offset("N"), np.log(x)[:, None], losses, bootstraps=30, seed=seed).intervals for seed in (1, 1, 2)
    )
    assert one == other != third
