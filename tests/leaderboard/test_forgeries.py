"""Results that somebody made up: what the check of submissions sees in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saebench.leaderboard.plausible import _copied, implausible
from saebench.results import Result
from tests.leaderboard.samples import submission, write_board
from tests.leaderboard.test_checks import altered, said


def scores(data: dict[str, Any], evaluator: str = "reconstruction") -> dict[str, Any]:
    return data["evaluators"][evaluator]["metrics"]


def rows(data: dict[str, Any], evaluator: str = "reconstruction") -> dict[str, Any]:
    return data["evaluators"][evaluator]["details"]["by_row"]


def without_samples(data: dict[str, Any]) -> None:
    """A perfect score whose sums by row were deleted."""
    scores(data)["normalised_mse"]["value"], scores(data)["explained_variance"]["value"] = 0.0, 1.0
    del data["evaluators"]["reconstruction"]["details"]["by_row"]


def scaled(data: dict[str, Any], name: str, by: float, evaluator: str = "reconstruction") -> None:
    rows(data, evaluator)[name] = [value * by for value in rows(data, evaluator)[name]]


FORGERIES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (without_samples, "reconstruction: its details do not give its scores (by_row is missing)"),
    (lambda d: scores(d)["normalised_mse"].update(standard_error=0.0), "has a standard error 0, but its samples give 0.0"),
    (lambda d: scores(d)["normalised_mse"].update(standard_error=None), "has a standard error none, but its samples"),
    (lambda d: scores(d)["mse"].update(value=1e308), "reconstruction.mse is 1e+308, but its samples give 0.01"),
    (lambda d: scores(d)["normalised_mse"].update(direction="higher"), "has another direction than its evaluator gives it"),
    (lambda d: scores(d)["l0"].update(n=7), "reconstruction.l0 has another n than its evaluator gives it"),
    (lambda d: scores(d).pop("l0"), "reconstruction.l0 is missing"),
    (lambda d: scores(d).update(good={**scores(d)["l0"], "name": "good"}), "reconstruction.good does not follow from"),
    (lambda d: scores(d)["l0"].update(value=None, reason="lost"), "l0 is undefined, but its samples give a value"),
    (
        lambda d: scores(d, "downstream")["top1_agreement"].update(interval=[0.0, 1.0]),
        "has an interval from 0",
    ),
    (lambda d: rows(d).update(squared_error=[0.0] * 3), "do not give its scores (the columns differ in length)"),
    (lambda d: rows(d).update(squared_error=["x"] * 256), "the column squared_error is missing or holds something else"),
    (lambda d: rows(d).update(rows_per_group=0), "rows_per_group is no whole number from 1"),
    (
        lambda d: scaled(d, "squared_error", 0.5),
        "normalised_mse is 0.0919615, but its samples give 0.0459807",
    ),
    (lambda d: scaled(d, "variance", 2.0), "the activations' variance per token is 18"),
    (lambda d: scaled(d, "tokens", 2.0), "reconstruction: the rows' tokens do not add up to the 32,512 that counted"),
    (lambda d: scaled(d, "l0", 2.0), "reconstruction.l0 is 32, but its samples give 64"),
    (lambda d: scaled(d, "l1", -1.0), "reconstruction: the sum by row l1 is negative"),
    (lambda d: scaled(d, "top1_agreement", 2.0, "downstream"), "downstream: a row agrees at more positions than it has"),
    (lambda d: scaled(d, "ce_clean", 0.9, "downstream"), "downstream.ce_clean is 2.9"),
    (lambda d: d["sae"].update(n_latents=10**30), "result.sae.n_latents: Input should be less than or equal to 2147483648"),
    (lambda d: d["sae"].update(n_latents=9215), "counts of latents by density do not add up to 9215"),
    (lambda d: d["sae"].update(d_in=577), "sae.d_in is 577, the benchmark's is 576"),
    (lambda d: d["sae"].update(architecture=""), "sae.architecture is empty, longer than 100 characters"),
    (
        lambda d: d["sae"].update(architecture="x" * 100_000),
        "sae.architecture is empty, longer than 100 characters",
    ),
    (lambda d: d["sae"].update(weights_sha256="z" * 64), "does not hold the SHA-256 of the autoencoder's weights"),
    (lambda d: d["sae"]["activation"].update(k=8), "reconstruction.l0 is 32, outside its range of 0 to 8"),
    (lambda d: d["controls"].update(random=d["evaluators"]), "has the very scores of the autoencoder for reconstruction"),
    (
        lambda d: d["controls"]["random"]["reconstruction"]["details"].clear(),
        "control random: reconstruction: its details",
    ),
]


@pytest.mark.parametrize(("forge", "words"), FORGERIES)
def test_forged_results_are_refused(tmp_path: Path, forge: Callable[[dict[str, Any]], Any], words: str) -> None:
    path = write_board(tmp_path, [submission()]) / "entry.json"
    altered(path, lambda data: forge(data["result"]), rehash=True)
    problems = said(tmp_path)
    assert any(words in problem for problem in problems), problems
    assert all(len(problem) < 300 and "\n" not in problem for problem in problems)


def test_what_is_measured_passes_for_every_evaluator(every_evaluator: Result) -> None:
    names = {"reconstruction", "downstream", "shrinkage", "progressive", "ablation", "dictionary", "explainability"}
    assert names <= set(every_evaluator.evaluators) and set(every_evaluator.controls) == {"random", "pca", "reinitialised"}
    assert implausible(every_evaluator) == []
    for name, found in every_evaluator.evaluators.items():
        for key in ("by_row", "by_latent", "by_sampled_row", "tasks"):
            if key in found.details:
                details = {each: value for each, value in found.details.items() if each != key}
                changed = {**every_evaluator.evaluators, name: found.model_copy(update={"details": details})}
                problems = implausible(every_evaluator.model_copy(update={"evaluators": changed}))
                assert any(problem.startswith(f"{name}") for problem in problems), (name, key, problems)


def test_figures_of_the_language_model_alone_are_no_copy(every_evaluator: Result) -> None:
    """Where no score is defined, as of absorption on a small model, what is left may be equal for all autoencoders."""
    found = every_evaluator.evaluators["downstream"]
    undefined = {
        name: each if each.direction == "none" else each.model_copy(update={"value": None})
        for name, each in found.metrics.items()
    }
    for metrics, copied in ((found.metrics, True), (undefined, False)):
        same = {"downstream": found.model_copy(update={"metrics": metrics})}
        result = every_evaluator.model_copy(update={"evaluators": same, "controls": {"random": same}})
        assert bool(list(_copied(result, "random", {}))) == copied
