"""Scores on the planted world: of the oracle and its damaged versions, of one autoencoder on disjoint texts, and of trained
autoencoders of one width and L0."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saebench.comparison.samples import stated_error
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.planted import DAMAGES, PlantedWorld
from saebench.progress import Progress
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from saebench.training.config import make_config
from saebench.training.run import train
from saebench.training.sources import TensorSource

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ablation": {"tokens": 128, "tokens_per_row": 2, "horizon": 6, "latents_per_token": 3, "baselines_per_token": 1},
    "explainability": {"latents": 12, "losses": False, "window": 8},
    "shrinkage": {"downstream_rows": 4},
}
WIDTH, ACTIVE = 128, 3
STEPS, RATES, BATCH = (10, 600), (3e-4, 1e-2), 512


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        tokens: of each text; ``repeats``: texts of the noise lens; ``trained``: autoencoders of the validity lens.
        seeds: of the random part of each damage.
    """

    tokens: int = 8192
    repeats: int = 12
    trained: int = 40
    seeds: int = 2

    @staticmethod
    def quick() -> Sizes:
        """Of ``--quick``."""
        return Sizes(tokens=2048, repeats=8, trained=30, seeds=1)


@dataclass
class Score:
    """One autoencoder's scores.

    Attributes:
        values, errors, directions: by metric; ``recovery``: true F1; ``l0``.
        damage, dose: for a damaged oracle.
    """

    values: dict[str, float]
    errors: dict[str, float]
    directions: dict[str, str]
    seconds: dict[str, float]
    recovery: float
    damage: str = ""
    dose: float = 0.0


@dataclass
class Scores:
    """All scores of an audit."""

    damaged: list[Score] = field(default_factory=list)
    repeated: list[Score] = field(default_factory=list)
    trained: list[Score] = field(default_factory=list)


def planted_scores(world: PlantedWorld, evaluators: Sequence[str], sizes: Sizes, seed: int, progress: Progress) -> Scores:
    """Evaluate everything that the lenses read.

    Args:
        world: the planted world; ``evaluators``: by name.
        sizes: how much; ``seed``: of damages and training; texts are the world's own.
        progress: where to show it.
    """
    found = Scores()
    wanted = [("", 0.0, 0)]
    wanted += [
        (kind, dose, seed + number)
        for kind, damage in DAMAGES.items()
        for dose in damage.doses[1:]
        for number in range(sizes.seeds)
    ]
    with progress.task("Damaged oracles", total=len(wanted), unit="SAEs") as advance:
        saes = [world.damaged(kind, dose, number) if kind else world.oracle() for kind, dose, number in wanted]
        for (kind, dose, _), score in zip(wanted, _score(world, saes, evaluators, sizes.tokens, 1), strict=True):
            score.damage, score.dose = kind, dose
            found.damaged.append(score)
        advance(len(wanted))
    with progress.task("Disjoint texts", total=sizes.repeats, unit="texts") as advance:
        one = world.damaged("random", 0.25, seed)
        for text in range(sizes.repeats):
            found.repeated += _score(world, [one], evaluators, sizes.tokens, 100 + text)
            advance(1)
    with progress.task("Trained autoencoders", total=sizes.trained, unit="SAEs") as advance:
        saes = train_many(world, sizes.trained, seed, advance)
        found.trained = _score(world, saes, evaluators, sizes.tokens, 1)
    return found


def _score(
    world: PlantedWorld, saes: Sequence[SparseAutoencoder], evaluators: Sequence[str], tokens: int, text: int
) -> list[Score]:
    corpus = world.corpus(tokens, seed=text)
    options = {name: dict(OPTIONS[name]) for name in evaluators if name in OPTIONS}
    settings = EvaluationSettings(
        model=world.model, hook=world.hook, corpus=corpus, evaluators=list(evaluators), options=options, dtype="float32"
    )
    results = EvaluationRun(list(saes), settings, [None] * len(saes), False, Progress(shown=False)).run()
    return [_of(result, world.recovery(sae, corpus).f1) for sae, result in zip(saes, results, strict=True)]


def _of(result: Result, recovery: float) -> Score:
    score = Score({}, {}, {}, {}, recovery)
    for name, evaluator in result.evaluators.items():
        for key, metric in evaluator.metrics.items():
            if metric.value is None:
                continue
            path, error = f"{name}.{key}", stated_error(metric)
            score.values[path], score.directions[path] = metric.value, metric.direction
            score.errors[path] = float("nan") if error is None else error
            score.seconds[path] = evaluator.duration_seconds
    return score


def train_many(world: PlantedWorld, count: int, seed: int, advance: Callable[[float], object]) -> list[SparseAutoencoder]:
    """TopK autoencoders of one width and L0 that differ in steps, learning rate and seed, and so in what they recover."""
    rng = np.random.default_rng(seed)
    source = TensorSource(world.activations(world.corpus(32_768, seed=50)), "planted")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            steps, rate = (float(np.exp(rng.uniform(*np.log(span)))) for span in (STEPS, RATES))
            config = make_config(
                {
                    "arch": "topk", "n": WIDTH, "k": ACTIVE, "batch": BATCH, "tokens": BATCH * max(1, round(steps)),
                    "lr": rate, "seed": number, "scaling": "none", "device": "cpu", "checkpoint_every": 10**6,
                }
            )  # fmt: skip
            (trainer,) = train([config], source, [Path(folder) / str(number)])
            found.append(trainer.sae())
            advance(1)
    return found
