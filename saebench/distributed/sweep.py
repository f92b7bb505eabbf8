"""A sweep on many workers: each trains members on the activations that the cache holds.

A member's folder has its state, so that a worker continues what another began, and the folders say what is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saebench.distributed.driver import run_whole
from saebench.distributed.jobs import Earlier
from saebench.distributed.memory import need_of_training, worker_memory
from saebench.distributed.units import Done, Unit
from saebench.distributed.workers import Workers
from saebench.lm.hooks import parse_place
from saebench.lm.loading import read_config
from saebench.progress import Progress
from saebench.training.config import TrainingConfig
from saebench.training.run import train
from saebench.training.saving import is_finished
from saebench.training.sources import StoredSource


@dataclass(frozen=True)
class SweepJob:
    """A sweep, as it travels to workers.

    Attributes:
        configs: of the members, by number; ``folders``: where each is saved.
        cache: folder with all activations, which every worker can read.
        threads: of a worker; None leaves torch's default.
    """

    configs: tuple[TrainingConfig, ...]
    folders: tuple[Path, ...]
    cache: Path
    threads: int | None = None

    @property
    def device(self) -> str | None:
        """Of the first member."""
        return self.configs[0].device or None

    def worker(self) -> SweepWorker:
        """A worker, in the process that calls this."""
        return SweepWorker(self)


class SweepWorker:
    """Trains members; no language model is loaded."""

    def __init__(self, job: SweepJob) -> None:
        self.job = job

    def run(self, unit: Unit, earlier: Earlier = ()) -> bytes:
        """Train the unit's members together, from their last states.

        Raises:
            SaebenchError: settings are inconsistent, a batch is not finite, or a file cannot be read or written.
        """
        configs, folders = self.job.configs, self.job.folders
        left = [number for number in unit.saes if not is_finished(configs[number], folders[number])]
        if left:
            source = StoredSource(self.job.cache)
            train([configs[number] for number in left], source, [folders[number] for number in left], resume=True)
        return Done(results=dict.fromkeys(unit.saes, "{}")).to_bytes()


def check_memory(configs: Sequence[TrainingConfig], members: Sequence[tuple[int, ...]], workers: Workers) -> None:
    """Check that a worker's memory is enough, before anything is loaded.

    Args:
        configs: of all members, which share a language model and a hook.
        members: numbers of those that are trained together, by unit.
        workers: where, and how many.

    Raises:
        SaebenchError: it is too small for one of the units; the sum is in the message.
    """
    model, place = read_config(configs[0].model), parse_place(configs[0].hook)
    inside_mlp = place.hooks[0].point in ("mlp.hook_pre", "mlp.hook_post")
    width = (model.intermediate_size if inside_mlp else model.hidden_size) * len(place.hooks)
    available = worker_memory(workers, configs[0].device or None)
    for unit in members:
        need_of_training([configs[number] for number in unit], width, available).together(len(unit))


def sweep_on(
    configs: Sequence[TrainingConfig],
    folders: Sequence[Path],
    members: Sequence[tuple[int, ...]],
    cache: Path,
    workers: Workers,
    progress: Progress,
) -> dict[int, str]:
    """Train the members of a sweep on workers, as ``training.run.train`` does in one process.

    Args:
        configs: of all members; ``folders``: where each is saved, from its last state where there is one.
        members: numbers of those that are trained together, by unit.
        cache: folder with all of their activations.
        workers: where, and how many; ``progress``: where progress is shown.

    Returns:
        Why members were left out, by number.

    Raises:
        SaebenchError: the pool cannot start.
    """
    names = [folder.name for folder in folders]
    places = tuple(folder.absolute() for folder in folders)  # a worker of a cluster has another working directory
    job = SweepJob(tuple(configs), places, cache.absolute(), workers.threads)
    return run_whole(job, members, names, "training", workers, progress)[1]
