"""The workers of an evaluation: each keeps the language model, the tokens and the autoencoders of a hook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saebench import checkpoints
from saebench.distributed.jobs import Earlier
from saebench.distributed.units import Done, Unit
from saebench.errors import SaebenchError
from saebench.evaluation.controls import OF_EACH, Control
from saebench.evaluation.engine import Clock, EvaluatedAutoencoder
from saebench.evaluation.hook_run import HookRun
from saebench.evaluation.record import Record, in_words
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.evaluators.base import StreamingEvaluator
from saebench.evaluators.shared import Shared, add_shared, shared_tensors
from saebench.evaluators.state import tensors_of
from saebench.lm import LanguageModel
from saebench.lm.loading import pick_device
from saebench.progress import Progress
from saebench.text.corpus import TokenCorpus


@dataclass(frozen=True)
class EvaluationJob:
    """An evaluation, as it travels to workers.

    Attributes:
        candidates: checkpoints, by number.
        settings: with everything decided that a single process decides from the first checkpoint.
        threads: of a worker; None leaves torch's default.
    """

    candidates: tuple[str, ...]
    settings: EvaluationSettings
    threads: int | None = None

    @property
    def device(self) -> str | None:
        """Of the settings."""
        return self.settings.device

    def worker(self) -> EvaluationWorker:
        """A worker, in the process that calls this."""
        return EvaluationWorker(self)


class EvaluationWorker:
    """Runs units of a job one after another."""

    def __init__(self, job: EvaluationJob) -> None:
        self.job = job
        self._model: LanguageModel | None = None
        self._corpus: TokenCorpus | None = None
        self._saes: dict[int, Any] = {}

    def run(self, unit: Unit, earlier: Earlier = ()) -> bytes:
        """Run a unit.

        Args:
            unit: the work.
            earlier: for the end of an evaluation: what the units of each shard gave, in the order of the shards.

        Returns:
            A ``Done``, as bytes.

        Raises:
            SaebenchError: the work itself cannot be done, by any worker.
        """
        done = Done()
        saes = self._loaded(unit, done)
        if saes:
            settings = self._settings(unit)
            run = _Loaded(
                [self.job.candidates[number] for number in saes], settings, [None] * len(saes), False, Progress(False)
            )
            run.loaded = {self.job.candidates[number]: sae for number, sae in saes.items()}
            for hook_run, records in run.hook_runs():
                numbers = [list(saes)[index] for index in records]
                if unit.rows is not None:
                    shared, evaluated, clock = hook_run.partial(list(records.values()))
                    self._keep(done, shared, evaluated, numbers, clock)
                    if unit.rows[0] == 0:
                        done.wants |= _wanted(hook_run, list(records.values()), numbers)
                elif unit.control:
                    found = hook_run.run_control(Control.from_text(unit.control), records[0])
                    done.results = {numbers[0]: found.model_dump_json()}
                else:
                    merge = _Merge([Done.joined(each) for each in earlier], numbers, hook_run.cut.model.device)
                    hook_run.run(list(records.values()), restore=merge)
                    done.results |= {
                        number: record.result().model_dump_json()
                        for number, record in zip(numbers, records.values(), strict=True)
                    }
            self._corpus = run.corpus
        return done.to_bytes()

    def _settings(self, unit: Unit) -> EvaluationSettings:
        if self._model is None:
            settings = self.job.settings
            assert isinstance(settings.model, str)
            self._model = LanguageModel.load(settings.model, settings.dtype, settings.device)
        rows = None if unit.rows is None else torch.arange(*unit.rows)
        corpus = self.job.settings.corpus if self._corpus is None else self._corpus
        controls = self.job.settings.controls
        if unit.rows is None and not unit.control:
            controls = [name for name in controls if name in OF_EACH]  # the others have units of their own
        return replace(self.job.settings, model=self._model, corpus=corpus, only_rows=rows, controls=controls)

    def _loaded(self, unit: Unit, done: Done) -> dict[int, Any]:
        """The unit's autoencoders; those of other units are dropped, those that cannot be read are noted."""
        self._saes = {number: self._saes[number] for number in unit.saes if number in self._saes}
        for number in unit.saes:
            if number not in self._saes:
                try:
                    device = pick_device(self.job.settings.device)
                    self._saes[number] = checkpoints.load(self.job.candidates[number], device, **self.job.settings.given)
                except SaebenchError as error:
                    done.rejected[number] = str(error)
        return self._saes

    @staticmethod
    def _keep(
        done: Done, shared: Shared, evaluated: Sequence[EvaluatedAutoencoder], numbers: Sequence[int], clock: Clock
    ) -> None:
        done.tensors |= {f"shared/{name}": each for name, each in shared_tensors(shared).items()}
        for number, one in zip(numbers, evaluated, strict=True):
            done.failures |= {f"{number}/{name}": in_words(error) for name, error in one.failures.items()}
            for name, evaluator in one.evaluators.items():
                done.tensors |= {f"{number}/{path}": each for path, each in tensors_of(evaluator, name).items()}
        done.seconds = dict(clock.seconds)


class _Loaded(EvaluationRun):
    """An evaluation of checkpoints that are loaded already: a worker reads each once, not for every shard."""

    loaded: dict[Any, Any]

    def _load_checkpoint(self, candidate: Any) -> Any:
        return self.loaded[candidate]


def _wanted(hook_run: HookRun, records: Sequence[Record], numbers: Sequence[int]) -> dict[int, list[str]]:
    """The controls that autoencoders share, as ``Unit.control``, by number."""
    hook = [str(hook_run.cut.hook_in), str(hook_run.cut.hook_out)]
    found = zip(numbers, hook_run.controls_of(records), strict=True)
    return {number: [each.to_text(hook) for each in controls] for number, controls in found if controls}


class _Merge:
    """Adds the sums of shards up, in order, in new evaluators of the given autoencoders."""

    def __init__(self, earlier: Sequence[Done], numbers: Sequence[int], device: torch.device) -> None:
        self.earlier, self.numbers, self.device = earlier, numbers, device

    def __call__(self, shared: Shared, evaluated: Sequence[EvaluatedAutoencoder]) -> Clock:
        clock = Clock()
        for done in self.earlier:
            add_shared(shared, _under(done, "shared"), self.device)
            for stage, seconds in done.seconds.items():
                clock.seconds[stage] += seconds
        for number, one in zip(self.numbers, evaluated, strict=True):
            for name in list(one.evaluators):
                failed = [words for done in self.earlier if (words := done.failures.get(f"{number}/{name}"))]
                if failed:
                    one.failures[name] = SaebenchError(failed[0])
                    del one.evaluators[name]
                else:
                    self._add(one.evaluators[name], number)
        return clock

    def _add(self, evaluator: StreamingEvaluator, number: int) -> None:
        first, *others = self.earlier
        evaluator.restore(_under(first, str(number)))
        for done in others:
            part = evaluator.empty()
            part.restore(_under(done, str(number)))
            evaluator.merge(part)


def _under(done: Done, first: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{first}/"): each for name, each in done.tensors.items() if name.startswith(f"{first}/")}
