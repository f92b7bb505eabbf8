"""Fitting power laws of losses robustly: several starts, bootstrap intervals, and a test of the irreducible term.

All fits are of ``log L``: residuals are relative errors. The loss function is ``soft_l1`` (a smooth Huber loss) at a scale
estimated from the residuals, so that a single failed run does not dominate the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saebench.errors import SaebenchError

Array = NDArray[np.float64]
SHARES = (0.99, 0.95, 0.85, 0.7, 0.5, 0.2, 0.02)
"""Starting values of the irreducible term, as shares of the smallest loss."""
HUBER = 1.345
"""Residuals beyond this many standard deviations are down-weighted; 95 % efficient for normal errors."""
FLOOR = 1e-9
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Form:
    """A law's form. Features (logarithms) are centred before fitting; ``natural`` undoes that in the parameters.

    Attributes:
        parameters: names, in the order of the array.
        log_loss: ``(parameters, features [points, f]) -> [points]``.
        starts: ``(features, log losses) -> starts``, the most plausible first.
        natural: ``(parameters, centres [f]) -> values`` for uncentred logarithms.
    """

    name: str
    parameters: tuple[str, ...]
    log_loss: Callable[[Array, Array], Array]
    starts: Callable[[Array, Array], list[Array]]
    natural: Callable[[Array, Array], Array]

    @property
    def needed(self) -> int:
        """The fewest points for a fit: Akaike's criterion for small samples needs three more than parameters."""
        return len(self.parameters) + 3


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        form: its form; ``centres`` of the features; ``raw`` the parameters for centred features.
        values: parameters by name; ``intervals``: their 95 % bootstrap intervals.
        residuals: ``log L - fitted``; ``scale``: beyond which they are down-weighted; ``cost``: half the robust sum of
            squares.
        spread: residual standard deviation, robust, with the degrees of freedom taken into account.
        bootstraps: refits behind the intervals.
    """

    form: Form
    centres: Array
    raw: Array
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    residuals: Array
    scale: float
    cost: float
    spread: float
    bootstraps: int

    @property
    def points(self) -> int:
        """Number of points."""
        return int(self.residuals.size)

    @property
    def aicc(self) -> float:
        """Akaike's criterion for small samples, from the robust cost."""
        n, p = self.points, len(self.form.parameters) + 1  # the scale of the errors is a parameter too
        return (
            n * float(np.log(max(2 * self.cost, FLOOR**2) / n))
            + 2 * p
            + (2 * p * (p + 1) / (n - p - 1) if n > p + 1 else np.inf)
        )

    def predict(self, features: Array) -> Array:
        """Losses at logarithmic features ``[points, f]``, uncentred."""
        return np.asarray(np.exp(self.form.log_loss(self.raw, features - self.centres)))


@dataclass(frozen=True)
class Comparison:
    """A law with its irreducible term against the same without.

    Attributes:
        full: with the term; ``reduced``: without.
        f_statistic: of the robust costs; ``p_value``: of it, approximate (the term is at the edge of its range under the
            null, which makes the test conservative).
        aicc_gain: by how much the term lowers the criterion; positive values favour the term. With very few points the
            criterion has little power.
    """

    full: Fit
    reduced: Fit
    f_statistic: float
    p_value: float
    aicc_gain: float

    @property
    def preferred(self) -> Fit:
        """The fit with the term where the test favours it, else the fit without."""
        return self.full if self.p_value < SIGNIFICANT else self.reduced


def fit(
    form: Form, features: Array, losses: Array, *, bootstraps: int = 400, seed: int = 0, scale: float | None = None
) -> Fit:
    """Fit a form to losses ``[points]`` at logarithmic features ``[points, f]``.

    Args:
        form: of the law.
        features: logarithms, uncentred.
        losses: positive.
        bootstraps: refits to resampled residuals (scaled up for the degrees of freedom used), for the intervals.
        seed: of the resampling.
        scale: beyond which residuals are down-weighted; estimated from the residuals by default.

    Raises:
        SaebenchError: there are too few points, or losses are not positive.
    """
    check_points(form, losses)
    centres, logs = features.mean(axis=0), np.log(losses)
    centred = features - centres
    best = _best(form, centred, logs, form.starts(centred, logs), scale or 0.02)
    if scale is None:
        scale = max(HUBER * _spread(logs - form.log_loss(best, centred), best.size), FLOOR)
        best = _best(form, centred, logs, [best, *form.starts(centred, logs)], scale)
    fitted = form.log_loss(best, centred)
    residuals = logs - fitted
    resampled = _resample(form, centred, fitted, residuals, best, scale, bootstraps, seed)
    natural = [form.natural(each, centres) for each in resampled]
    values = form.natural(best, centres)
    bounds = np.quantile(np.array(natural), [0.025, 0.975], axis=0) if natural else np.stack([values, values])
    return Fit(
        form,
        centres,
        best,
        dict(zip(form.parameters, values.tolist(), strict=True)),
        {name: (float(low), float(high)) for name, low, high in zip(form.parameters, *bounds, strict=True)},
        residuals,
        scale,
        _cost(residuals, scale),
        _spread(residuals, best.size),
        len(natural),
    )


def compare(
    full: Form, reduced: Form, features: Array, losses: Array, *, bootstraps: int = 400, seed: int = 0
) -> Comparison:
    """Fit a law with and without its irreducible term, at the same scale of residuals, and test the term."""
    from scipy.stats import f as f_distribution

    with_term = fit(full, features, losses, bootstraps=bootstraps, seed=seed)
    without = fit(reduced, features, losses, bootstraps=bootstraps, seed=seed, scale=with_term.scale)
    extra = len(full.parameters) - len(reduced.parameters)
    freedom = with_term.points - len(full.parameters)
    gain = max(without.cost - with_term.cost, 0.0)
    statistic = gain / extra / max(with_term.cost / freedom, FLOOR**2)
    p_value = float(f_distribution.sf(statistic, extra, freedom))
    return Comparison(with_term, without, float(statistic), p_value, without.aicc - with_term.aicc)


def check_points(form: Form, losses: Array) -> None:
    """Raise ``SaebenchError`` where there are too few losses for a form, or one is not a positive number."""
    if losses.size < form.needed:
        raise SaebenchError(f"The law {form.name} needs at least {form.needed} points; there are {losses.size}.")
    if not bool(np.all(np.isfinite(losses) & (losses > 0))):
        raise SaebenchError(f"The law {form.name} needs positive losses.")


def _best(form: Form, centred: Array, logs: Array, starts: list[Array], scale: float) -> Array:
    """The best of the fits from several starts."""
    from scipy.optimize import least_squares

    best, least = starts[0], np.inf
    for start in starts:
        if not np.all(np.isfinite(start)):
            continue
        try:
            found = least_squares(
                lambda p: form.log_loss(p, centred) - logs, start, loss="soft_l1", f_scale=scale, max_nfev=200
            )
        except ValueError:  # a start that diverged to where the law is not finite
            continue
        if found.cost < least:
            best, least = found.x, found.cost
    return np.asarray(best)


def _resample(
    form: Form, centred: Array, fitted: Array, residuals: Array, best: Array, scale: float, bootstraps: int, seed: int
) -> list[Array]:
    """Parameters refitted to resampled residuals."""
    generator = np.random.default_rng(seed)
    n = residuals.size
    inflated = (residuals - residuals.mean()) * np.sqrt(n / max(n - best.size, 1))
    found = []
    for _ in range(bootstraps):
        logs = fitted + generator.choice(inflated, size=n)
        found.append(_best(form, centred, logs, [best], scale))
    return found


def _spread(residuals: Array, parameters: int) -> float:
    """Standard deviation of residuals clipped at three times their median absolute value (scaled as for a normal error)."""
    n = residuals.size
    cut = 3 * 1.4826 * float(np.median(np.abs(residuals)))
    kept = np.minimum(np.abs(residuals), cut) if cut else residuals
    return float(np.sqrt(np.sum(kept**2) / max(n - parameters, 1)))


def _cost(residuals: Array, scale: float) -> float:
    return float(np.sum(scale**2 * (np.sqrt(1 + (residuals / scale) ** 2) - 1)))
