"""The audit on the planted world: scores, lenses, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saebench.audit.lenses import Array, adds, dose_response, noise, resolution, validity
from saebench.audit.scores import Score, Scores, Sizes, planted_scores
from saebench.audit.verdicts import Lenses, decide, thresholds, thresholds_sha256
from saebench.comparison.headline import L0
from saebench.errors import SaebenchError
from saebench.planted import DAMAGES, PlantedConfig, plant
from saebench.progress import Progress
from saebench.version import __version__

MSE = "reconstruction.normalised_mse"


def audit_planted(
    sizes: Sizes, seed: int = 0, progress: Progress | None = None, plugins: Sequence[str] = ()
) -> tuple[dict[str, Any], Scores]:
    """``(audit.json's content, scores)`` of the metrics in ``thresholds.toml``, and of every metric of ``plugins``.

    Raises:
        SaebenchError: an evaluator of ``plugins`` is not installed.
    """
    meant: dict[str, list[str]] = {path: list(each["sees"]) for path, each in thresholds()["metrics"].items()}
    evaluators = list(dict.fromkeys([*(path.partition(".")[0] for path in meant), *plugins]))
    world = plant(PlantedConfig(seed=seed))
    scores = planted_scores(world, evaluators, sizes, seed, progress or Progress(shown=False))
    for path, direction in scores.damaged[0].directions.items():
        if path.partition(".")[0] in plugins and direction != "none":
            meant.setdefault(path, list(DAMAGES))
    content = {
        "saebench": __version__,
        "thresholds": {"version": thresholds()["version"], "sha256": thresholds_sha256()},
        "world": repr(world.config),
        "sizes": asdict(sizes),
        "seed": seed,
        "metrics": audited(scores, meant),
    }
    return content, scores


def audited(scores: Scores, meant: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Lenses and verdict of each metric.

    Args:
        scores: of the planted world; ``meant``: by metric the damages that it is meant to see.

    Raises:
        SaebenchError: a metric has no direction, or nothing has a value of it.
    """
    return {path: _one(scores, path, list(sees)) for path, sees in meant.items()}


def _one(scores: Scores, path: str, sees: Sequence[str]) -> dict[str, Any]:
    direction = next((each.directions[path] for each in scores.damaged if path in each.directions), "none")
    if direction not in ("lower", "higher"):
        raise SaebenchError(f"The metric {path} has no direction or no value on the planted world: it cannot be audited.")
    doses = dose_response({kind: _curve(scores.damaged, kind, path) for kind in DAMAGES}, direction)
    repeated = [each for each in scores.repeated if path in each.values]
    errors = np.array([each.errors[path] for each in repeated])
    trained = [each for each in scores.trained if path in each.values and MSE in each.values]
    values, recovery = _column(trained, path), np.array([each.recovery for each in trained])
    enough = len(trained) >= thresholds()["validity"]["least_saes"]
    found = Lenses(
        dose={kind: value for kind, value in doses.items() if kind in sees},
        other_doses={kind: value for kind, value in doses.items() if kind not in sees},
        noise=noise(_column(repeated, path), errors),
        validity=validity(values, recovery, direction) if enough else None,
        adds=adds(values, recovery, [_column(trained, MSE), _column(trained, L0)], direction) if enough else None,
        resolution=resolution(errors),
        seconds=scores.damaged[0].seconds.get(path),
        best_is_oracle=not _better(scores.damaged, path, direction),
    )
    verdict = decide(found)
    lenses = asdict(found) | {
        name: None if (measure := getattr(found, name)) is None else measure._asdict()
        for name in ("noise", "validity", "adds")
    }
    return {"direction": direction, "verdict": asdict(verdict), "lenses": lenses,
            "better_than_oracle": _better(scores.damaged, path, direction)}  # fmt: skip


def _curve(damaged: Sequence[Score], kind: str, path: str) -> tuple[Array, Array]:
    """Doses and values; the values of one dose are averaged over seeds, so that the random part does not hide the order."""
    by_dose: dict[float, list[float]] = {}
    for each in damaged:
        if each.damage in ("", kind) and path in each.values:
            by_dose.setdefault(each.dose, []).append(each.values[path])
    doses = sorted(by_dose)
    return np.array(doses), np.array([sum(by_dose[dose]) / len(by_dose[dose]) for dose in doses])


def _better(damaged: Sequence[Score], path: str, direction: str) -> list[str]:
    """Damaged versions whose value is better than the oracle's."""
    oracle = damaged[0].values.get(path)
    if oracle is None:
        return []
    return [
        f"{each.damage} {each.dose:g}"
        for each in damaged[1:]
        if path in each.values and (each.values[path] < oracle if direction == "lower" else each.values[path] > oracle)
    ]


def _column(scores: Iterable[Score], path: str) -> Array:
    return np.array([each.values.get(path, np.nan) for each in scores])
