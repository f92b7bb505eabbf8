"""The experiments on the planted model: which autoencoders are evaluated, on which text, and the scores that they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from saebench.audit.scores import Score, Subject, scores_of, with_figures
from saebench.audit.trained import Kept, train_small
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.planted import DAMAGES, PlantedConfig, PlantedWorld, plant
from saebench.progress import Progress
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus

BASE = ("reconstruction", "downstream", "ablation")
OTHERS = ("shrinkage", "progressive", "dictionary", "explainability")
DOSE_TEXT, RECOVERY_TEXT, TRAINING_TEXT, REPEAT_TEXT = 1, 2, 3, 100
CONTROLS = ("random", "pca")


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        evaluators: that are audited; ``options``: of theirs.
        tokens: of each text; ``repeats``: texts of the noise lens, on each of ``repeated`` damaged autoencoders.
        doses: how many of each damage's doses, 0 included; the last ones are kept.
        seeds: of TopK runs; ``others``: of BatchTopK and of runs with a frozen decoder.
        steps: of training after which a copy is evaluated; ``widths``, ``ks``: of the grid.
        training_tokens: of the training text.
    """

    evaluators: tuple[str, ...] = BASE + OTHERS
    options: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"ablation": {"tokens": 32}, "explainability": {"latents": 8}}
    )
    tokens: int = 3072
    repeats: int = 12
    repeated: int = 2
    doses: int = 5
    seeds: int = 8
    others: int = 4
    steps: tuple[int, ...] = (75, 150, 300, 500)
    widths: tuple[int, ...] = (64, 256)
    ks: tuple[int, ...] = (2, 6, 12)
    training_tokens: int = 65_536


QUICK = Plan(
    evaluators=BASE, options={"ablation": {"tokens": 16}}, tokens=1536, repeats=8, repeated=1, doses=3, seeds=4, others=0,
    steps=(25, 60, 120), widths=(), ks=(), training_tokens=16_384,
)  # fmt: skip


class PlantedRun:
    """Runs a plan.

    Attributes:
        scores: found so far; ``failures``: evaluators that failed, with the error.
    """

    def __init__(self, plan: Plan, seed: int = 0, progress: Progress | None = None) -> None:
        self.plan, self.seed, self.progress = plan, seed, progress or Progress(shown=False)
        self.scores: list[Score] = []
        self.failures: dict[str, str] = {}
        self.world: PlantedWorld = plant(PlantedConfig(seed=seed, context=64))
        self._recovery_text = self._text(RECOVERY_TEXT)

    def run(self) -> list[Score]:
        """All experiments."""
        for name, stage in (("Damages", self._damages), ("Repeats", self._repeats), ("Trained", self._trained)):
            with self.progress.step(name):
                stage()
        return self.scores

    def _text(self, number: int) -> TokenCorpus:
        return self.world.corpus(self.plan.tokens, seed=self.seed * 1000 + number)

    def _damages(self) -> None:
        saes, subjects = [], []
        for kind, damage in DAMAGES.items():
            chosen = sorted({0.0, *damage.doses[1:][:: -max(1, 4 // (self.plan.doses - 1))][: self.plan.doses - 1]})
            for dose in chosen:
                saes.append(self.world.damaged(kind, dose, self.seed))
                subjects.append(Subject(f"{kind} {dose:g}", "damaged", damage=kind, dose=dose))
        self._evaluate(saes, subjects, self._text(DOSE_TEXT))

    def _repeats(self) -> None:
        chosen = [self.world.damaged("random", 0.25, self.seed), self.world.damaged("merged", 0.25, self.seed)]
        for number in range(self.plan.repeats):
            saes = chosen[: self.plan.repeated]
            subjects = [Subject(sae.info.origin, "repeat", sample=number) for sae in saes]
            self._evaluate(saes, subjects, self._text(REPEAT_TEXT + number), evaluation_seed=number)

    def _trained(self) -> None:
        plan, world = self.plan, self.world
        source = world.activations(world.corpus(plan.training_tokens, seed=self.seed * 1000 + TRAINING_TEXT))
        kept = [each for seed in range(plan.seeds) for each in train_small(world, source, plan.steps, seed)]
        finals = [each for each in kept if each.tokens == max(one.tokens for one in kept)]
        kept += self._other_runs(source)
        text = self._text(DOSE_TEXT)
        results = self._evaluate([each.sae for each in kept], [self._subject(each) for each in kept], text)
        del results
        self._controls(finals, text)

    def _other_runs(self, source: Tensor) -> list[Kept]:
        plan, world = self.plan, self.world
        kept = []
        for seed in range(plan.others):
            kept += train_small(world, source, plan.steps, seed, arch="batchtopk")
            kept += train_small(world, source, plan.steps[-1:], seed, freeze="decoder")
        for n in plan.widths:
            for k in plan.ks:
                kept += train_small(world, source, plan.steps[-1:], 0, n=n, k=k)
        return kept

    def _controls(self, finals: Sequence[Kept], text: TokenCorpus) -> None:
        """Scores of controls of the same width and L0; each control is one autoencoder, compared with every seed."""
        result = self._run([finals[0].sae], text, 0, CONTROLS)[0]
        for name, evaluators in result.controls.items():
            for each in finals:
                subject = replace(self._subject(each), role="control", control=name, sae=f"{name} for seed {each.seed}")
                self.scores += scores_of(subject, evaluators.values())

    def _subject(self, kept: Kept) -> Subject:
        found = self.world.recovery(kept.sae, self._recovery_text)
        role = "control" if kept.freeze else "trained"
        return Subject(
            f"{kept.arch} n={kept.n} k={kept.k} seed {kept.seed} after {kept.tokens}", role, recovery=found.f1, n=kept.n,
            architecture=kept.arch, seed=kept.seed, tokens=kept.tokens,
            control=f"frozen {kept.freeze}" if kept.freeze else "", cell=f"{kept.arch} n={kept.n} k={kept.k}",
        )  # fmt: skip

    def _evaluate(
        self, saes: Sequence[SparseAutoencoder], subjects: Sequence[Subject], text: TokenCorpus, evaluation_seed: int = 0
    ) -> list[Result]:
        unique = {id(sae): sae for sae in saes}  # dose 0 of every damage is the oracle: it is evaluated once
        results = dict(zip(unique, self._run(list(unique.values()), text, evaluation_seed), strict=True))
        for sae, subject in zip(saes, subjects, strict=True):
            found = results[id(sae)].evaluators.values()
            self.scores += scores_of(with_figures(subject, found), found)
        return list(results.values())

    def _run(
        self, saes: Sequence[SparseAutoencoder], text: TokenCorpus, seed: int, controls: Sequence[str] = ()
    ) -> list[Result]:
        settings = EvaluationSettings(
            model=self.world.model, hook=self.world.hook, corpus=text, evaluators=self.plan.evaluators, seed=seed,
            options={name: each for name, each in self.plan.options.items() if name in self.plan.evaluators},
            controls=controls,
        )  # fmt: skip
        results = EvaluationRun(list(saes), settings, [None] * len(saes), False, Progress(shown=False)).run()
        for result in results:
            self.failures |= dict(result.failures)
        if results and not any(result.evaluators for result in results):
            raise SaebenchError(f"No evaluator ran on the planted model: {next(iter(self.failures.values()), '')}")
        return results
