"""Activating examples of several checkpoints, in this process or on many workers, each of which keeps the language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from saebench.distributed.driver import run_whole
from saebench.distributed.jobs import Earlier
from saebench.distributed.memory import need, worker_memory
from saebench.distributed.units import Done, Unit
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import TOKENS_PER_BATCH, EvaluationSettings
from saebench.explaining.examples.collecting import ExampleSettings, collect, holds_examples, write_examples
from saebench.explaining.examples.folder import ActivatingExamples
from saebench.lm import LanguageModel
from saebench.lm.loading import read_config
from saebench.progress import Progress


@dataclass(frozen=True)
class Written:
    """The examples of a checkpoint.

    Attributes:
        active: latents that were active, of ``latents``, on ``tokens`` tokens.
        seconds: by stage.
    """

    active: int
    latents: int
    tokens: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class ExamplesJob:
    """The collection of examples of several checkpoints.

    Attributes:
        checkpoints: by number; ``folders``: where the examples of each are written.
        kept: which examples are kept.
        settings: model, hook and text, as ``EvaluationSettings`` has them; the result is that of each checkpoint alone.
        resume: leave what a folder holds already, where it is of the same autoencoder, text and settings.
        threads: of a worker; None leaves torch's default.
    """

    checkpoints: tuple[str, ...]
    folders: tuple[Path, ...]
    kept: ExampleSettings
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    threads: int | None = None

    @property
    def device(self) -> str | None:
        """Of the settings."""
        return self.settings.get("device")

    def worker(self) -> ExamplesWorker:
        """A worker, in the process that calls this."""
        return ExamplesWorker(self, Progress(shown=False))

    def plan(self, number: int, progress: Progress) -> EvaluationRun:
        """A checkpoint's model, hook and text, checked by metadata alone.

        Raises:
            SaebenchError: the checkpoint cannot be read, or a setting is invalid.
        """
        settings = EvaluationSettings(evaluators=(), **self.settings)
        return EvaluationRun([self.checkpoints[number]], settings, [None], False, progress)


class ExamplesWorker:
    """Collects the examples of one checkpoint after another, with one language model where that is the same."""

    def __init__(self, job: ExamplesJob, progress: Progress) -> None:
        self.job, self.progress = job, progress
        self._model: tuple[Any, LanguageModel] | None = None

    def run(self, unit: Unit, earlier: Earlier = ()) -> bytes:
        """Collect the examples of the unit's checkpoints.

        Raises:
            SaebenchError: as ``written``.
        """
        results = {number: json.dumps(asdict(self.written(number))) for number in unit.saes}
        return Done(results=results).to_bytes()

    def written(self, number: int) -> Written:
        """Collect the examples of a checkpoint and write them.

        Raises:
            SaebenchError: it cannot be read, a setting is invalid, or its folder cannot be written.
        """
        plan, folder = self.job.plan(number, self.progress), self.job.folders[number]
        name = plan.model_name
        if self._model is not None and self._model[0] == name:
            plan.model_name = self._model[1]
        (sae,), cut, text = plan.prepare()
        self._model = (name, cut.model)
        if self.job.resume and holds_examples(folder, sae, cut, text, self.job.kept):
            there = ActivatingExamples.open(folder)
        else:
            batch = self.job.settings.get("batch") or max(1, TOKENS_PER_BATCH // text.context)
            there = write_examples(collect(sae, cut, text, self.job.kept, batch, self.progress), folder)
        active = int((there.table["count"] > 0).sum())
        return Written(active, sae.n_latents, text.tokens_counted, there.manifest["stages"])


def collect_examples(
    job: ExamplesJob, workers: Workers | None, progress: Progress
) -> tuple[dict[int, Written], dict[int, str]]:
    """Collect the examples of all checkpoints.

    Args:
        job: what is collected.
        workers: where, and how many; None for this process.
        progress: where progress is shown.

    Returns:
        What was written, and why checkpoints were left out, by number.

    Raises:
        SaebenchError: no checkpoint can be used (one alone: why it cannot), a worker's memory is too small, or the pool
            cannot start.
    """
    rejected: dict[int, str] = {}
    numbers = range(len(job.checkpoints))
    for number in numbers:
        try:
            job.plan(number, progress)
        except SaebenchError as error:
            rejected[number] = str(error)
    if len(rejected) == len(numbers):
        raise SaebenchError(rejected[0])
    rejected = {number: f"{job.checkpoints[number]}: {words}" for number, words in rejected.items()}
    left = [number for number in numbers if number not in rejected]
    if workers is None:
        found, failed = _in_this_process(ExamplesWorker(job, progress), left)
    else:
        _check_memory(job, left, workers, progress)
        places = tuple(folder.absolute() for folder in job.folders)  # a worker of a cluster has another working directory
        job = replace(job, folders=places, threads=workers.threads)
        packs = [(number,) for number in left]
        texts, failed = run_whole(job, packs, job.checkpoints, "collection of examples", workers, progress)
        found = {number: Written(**json.loads(text)) for number, text in texts.items()}
    return found, rejected | failed


def _check_memory(job: ExamplesJob, numbers: Sequence[int], workers: Workers, progress: Progress) -> None:
    """Raise ``SaebenchError`` where a worker's memory is too small for one of the checkpoints."""
    available = worker_memory(workers, job.device)
    for number in numbers:
        plan = job.plan(number, progress)
        (info,) = plan.infos
        if info is not None and isinstance(plan.model_name, str):
            widths = [(info.d_in or 0, info.n_latents or 0)]
            need(read_config(plan.model_name), "auto", 0, widths, available, job.kept.bytes_per_latent).together()


def _in_this_process(worker: ExamplesWorker, numbers: list[int]) -> tuple[dict[int, Written], dict[int, str]]:
    found: dict[int, Written] = {}
    failed: dict[int, str] = {}
    for number in numbers:
        try:
            found[number] = worker.written(number)
        except SaebenchError as error:
            if len(worker.job.checkpoints) == 1:
                raise
            failed[number] = f"{worker.job.checkpoints[number]}: {error}"
    return found, failed
