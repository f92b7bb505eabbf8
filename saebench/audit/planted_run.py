"""Experiments on the planted model: which autoencoders are evaluated, on which text, and the scores that they get."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from saebench.audit.plan import Plan, Run
from saebench.audit.scores import Score, Subject, scores_of, with_figures
from saebench.audit.trained import Kept, train_small
from saebench.errors import SaebenchError
from saebench.evaluation.controls import Control, Sample, measured_l0
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.explaining.llm.local import answered_here
from saebench.planted import PlantedConfig, PlantedWorld, plant
from saebench.planted.reader import FeatureReader
from saebench.planted.recovery import measure
from saebench.progress import Progress
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from saebench.training.recipe import geometric_median

DOSE_TEXT, RECOVERY_TEXT, TRAINING_TEXT, REPEAT_TEXT, DAMAGES = 1, 2, 3, 100, 900
CONTROLS = ("random", "pca")
Found = tuple[list[Score], dict[str, str]]
"""Scores, and evaluators that failed with the error."""


class PlantedWork:
    """Single experiments of a plan; each gives the same scores whatever runs beside it.

    Args:
        plan: how much is run; ``seed``: of the world, the damages and the training.

    Attributes:
        data_dir: with the probing tasks; to be set before an experiment is run.
    """

    data_dir: Path

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.world: PlantedWorld = plant(PlantedConfig(seed=seed, context=64))
        self._of_oracle: Result | None = None

    def damages(self, chosen: Sequence[tuple[str, float]]) -> Found:
        """Damaged copies of the oracle, all on one text; dose 0 is the oracle itself, which is evaluated once."""
        saes, oracle = [self.world.damaged(kind, dose, self._damage_seed) for kind, dose in chosen], self.world.oracle()
        subjects = [Subject(f"{kind} {dose:g}", "damaged", damage=kind, dose=dose) for kind, dose in chosen]
        new = [sae for sae in saes if sae is not oracle or self._of_oracle is None]
        found = {id(sae): result for sae, result in zip(new, self._run(new, DOSE_TEXT, 0), strict=True)}
        self._of_oracle = found.get(id(oracle), self._of_oracle)
        if self._of_oracle is not None:
            found[id(oracle)] = self._of_oracle
        return _scored(subjects, [found[id(sae)] for sae in saes])

    def repeat(self, number: int) -> Found:
        """The same damaged copy on another text, with another seed of the evaluation."""
        sae = self.world.damaged("random", 0.25, self._damage_seed)
        return _scored([Subject(sae.info.origin, "repeat", sample=number)], self._run([sae], REPEAT_TEXT + number, number))

    def trained(self, seed: int, runs: Sequence[Run], controls: bool) -> Found:
        """Training runs of one seed, and the controls of the first one's last copy, evaluated with that seed."""
        kept = [
            each for run in runs for each in train_small(
                self.world, self._source, run.steps, seed, run.arch, run.n, run.k, run.freeze, self._median
            )
        ]  # fmt: skip
        saes, subjects = [each.sae for each in kept], [self._subject(each) for each in kept]
        if controls:  # of the last copy alone: the others' would have other L0, and are not asked for
            last = len(runs[0].steps) - 1
            for name, sae in self._controls(saes[last], seed).items():
                saes.append(sae)
                subjects.append(replace(subjects[last], role="control", control=name, sae=f"{name} for seed {seed}"))
        return _scored(subjects, self._run(saes, DOSE_TEXT, seed))

    def _controls(self, sae: SparseAutoencoder, seed: int) -> dict[str, SparseAutoencoder]:
        """Those that an evaluation of ``sae`` with ``controls`` makes."""
        sample = Sample.of(self.world.cut(), self._text(DOSE_TEXT))
        l0 = measured_l0(sae, sample)
        return {name: Control.of(name, sae, l0, sample).make(sample, seed) for name in CONTROLS}

    def _subject(self, kept: Kept) -> Subject:
        found = measure(kept.sae, self.world.features.directions, *self._recovery_sample)
        cell, control = f"{kept.arch} n={kept.n} k={kept.k}", f"frozen {kept.freeze}" if kept.freeze else ""
        return Subject(
            f"{cell} {control} seed {kept.seed} after {kept.tokens}",
            "control" if kept.freeze else "trained", recovery=found.f1, n=kept.n, architecture=kept.arch, seed=kept.seed,
            tokens=kept.tokens, control=control, cell=cell,
        )  # fmt: skip

    @property
    def _damage_seed(self) -> int:
        """Not that of an evaluation: with the same one, damaged latents can be just those that an evaluator samples."""
        return self.seed * 1000 + DAMAGES

    def _text(self, number: int) -> TokenCorpus:
        return self.world.corpus(self.plan.tokens, seed=self.seed * 1000 + number)

    @cached_property
    def _recovery_sample(self) -> tuple[Tensor, Tensor]:
        """Activations and true code of the text on which recovery is measured."""
        text = self._text(RECOVERY_TEXT)
        return self.world.activations(text), self.world.code(text)

    @cached_property
    def _source(self) -> Tensor:
        return self.world.activations(self.world.corpus(self.plan.training_tokens, seed=self.seed * 1000 + TRAINING_TEXT))

    @cached_property
    def _median(self) -> Tensor:
        """Of the training activations, where the bias of every training starts."""
        return geometric_median(self._source)

    def _run(self, saes: Sequence[SparseAutoencoder], text: int, seed: int) -> list[Result]:
        plan = self.plan
        unique = {id(sae): sae for sae in saes}  # dose 0 of every damage is the oracle
        options = {name: dict(each) for name, each in plan.options.items() if name in plan.evaluators}
        with answered_here(FeatureReader(self.world.features).answer) if "autointerp" in options else nullcontext("") as url:
            if url:
                options["autointerp"]["url"] = url
            settings = EvaluationSettings(
                model=self.world.model, hook=self.world.hook, corpus=self._text(text), evaluators=plan.evaluators,
                seed=seed, options=options, data_dir=self.data_dir,
            )  # fmt: skip
            run = EvaluationRun(list(unique.values()), settings, [None] * len(unique), False, Progress(shown=False))
            results = dict(zip(unique, run.run(), strict=True))
        return [results[id(sae)] for sae in saes]


def _scored(subjects: Sequence[Subject], results: Sequence[Result]) -> Found:
    scores: list[Score] = []
    failures: dict[str, str] = {}
    for subject, result in zip(subjects, results, strict=True):
        found = result.evaluators.values()
        scores += scores_of(with_figures(subject, found), found)
        failures |= dict(result.failures)
    if results and not any(result.evaluators for result in results):
        raise SaebenchError(f"No evaluator ran on the planted model: {next(iter(failures.values()), '')}")
    return scores, failures
