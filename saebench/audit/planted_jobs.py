"""The experiments of an audit on the planted model, in this process or on workers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from saebench.audit.plan import Plan
from saebench.audit.planted_run import Found, PlantedWork
from saebench.audit.scores import Score, Subject
from saebench.distributed.driver import run_whole
from saebench.distributed.jobs import Earlier
from saebench.distributed.units import Done, Unit
from saebench.distributed.workers import Workers
from saebench.planted import PlantedConfig, plant
from saebench.planted.documents import write_documents
from saebench.planted.probing import write_tasks
from saebench.progress import Progress


@dataclass(frozen=True)
class AuditJob:
    """An audit's experiments, as they travel to workers.

    Attributes:
        plan: how much is run; ``seed``: of the world, the damages and the training.
        folder: with the probing tasks; a worker on another machine, where it is not, writes its own.
        threads: of a worker.
        device: of all experiments.
    """

    plan: Plan
    seed: int
    folder: Path
    threads: int | None = 1
    device: str = "cpu"

    @cached_property
    def experiments(self) -> list[tuple[str, tuple[object, ...]]]:
        """A method of ``PlantedWork`` and its arguments, for each."""
        found: list[tuple[str, tuple[object, ...]]] = [("trained", each) for each in self.plan.runs()]
        found += [("damages", (each,)) for each in self.plan.damages()]
        return found + [("repeat", (number,)) for number in range(self.plan.repeats)]

    def worker(self) -> AuditWorker:
        """A worker, in the process that calls this."""
        return AuditWorker(self)


class AuditWorker:
    """Runs experiments on a world of its own; each gives the same scores whatever runs beside it."""

    def __init__(self, job: AuditJob) -> None:
        self.job = job
        self._work = PlantedWork(job.plan, job.seed)

    def run(self, unit: Unit, earlier: Earlier = ()) -> bytes:
        """Run the unit's experiments.

        Raises:
            SaebenchError: no evaluator runs on the planted model.
        """
        results = {}
        for number in unit.saes:
            scores, failures = self.found(number)
            results[number] = json.dumps([[asdict(each) for each in scores], failures])
        return Done(results=results).to_bytes()

    def found(self, number: int) -> Found:
        """The scores of an experiment, and evaluators that failed.

        Raises:
            SaebenchError: no evaluator runs on the planted model.
        """
        folder = self.job.folder
        with nullcontext(folder) if folder.is_dir() else _data_folder(self.job.seed) as there, _cache_below(there):
            self._work.data_dir = there
            name, arguments = self.job.experiments[number]
            found: Found = getattr(self._work, name)(*arguments)
            return found


def run_plan(plan: Plan, seed: int = 0, workers: Workers | None = None, progress: Progress | None = None) -> Found:
    """All experiments of a plan.

    Args:
        plan: how much is run; ``seed``: of the world, the damages and the training.
        workers: where, and how many; None for this process. The scores are the same.
        progress: where progress is shown.

    Raises:
        SaebenchError: no evaluator runs on the planted model, or the pool cannot start.
    """
    progress = progress or Progress(shown=False)
    with _data_folder(seed) as folder:
        job = AuditJob(plan, seed, folder, workers.threads if workers else None)
        found = _on_workers(job, workers, progress) if workers else _in_this_process(job, progress)
    scores = [score for some, _ in found for score in some]
    return scores, {name: words for _, failed in found for name, words in failed.items()}


def _in_this_process(job: AuditJob, progress: Progress) -> list[Found]:
    worker, found = job.worker(), []
    with progress.task("Auditing", len(job.experiments), "experiments") as advance:
        for number in range(len(job.experiments)):
            found.append(worker.found(number))
            advance(1)
    return found


def _on_workers(job: AuditJob, workers: Workers, progress: Progress) -> list[Found]:
    names = [f"experiment {number} ({name})" for number, (name, _) in enumerate(job.experiments)]
    packs = [(number,) for number in range(len(names))]
    texts, _ = run_whole(job, packs, names, "audit", workers, progress, needs_all=True)
    return [_read(texts[number]) for number in range(len(names))]


def _read(text: str) -> Found:
    scores, failures = json.loads(text)
    return [Score(Subject(**each.pop("subject")), **each) for each in scores], failures


@contextmanager
def _data_folder(seed: int) -> Iterator[Path]:
    """A folder with the probing tasks for as long as a run lasts."""
    with tempfile.TemporaryDirectory(prefix="saebench-audit-") as name:
        folder, world = Path(name), plant(PlantedConfig(seed=seed, context=64))
        write_tasks(world, folder, seed)
        write_documents(world, folder, seed)
        yield folder


@contextmanager
def _cache_below(folder: Path) -> Iterator[None]:
    """Nothing is read from the user's cache: an earlier version's planted model may have had other activations."""
    before = os.environ.get("SAEBENCH_CACHE")
    os.environ["SAEBENCH_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.environ.pop("SAEBENCH_CACHE")
        if before is not None:
            os.environ["SAEBENCH_CACHE"] = before
