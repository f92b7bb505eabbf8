"""What pools know of their work: a job travels to processes, and each makes a worker of it, which runs units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from saebench.distributed.units import Unit
from saebench.evaluation.record import in_words

Earlier = Sequence[Sequence[bytes]]
"""For a unit that needs them, what the units of each shard gave, in the order of the shards."""


class Worker(Protocol):
    """Runs units of a job one after another; it keeps what it has loaded."""

    def run(self, unit: Unit, earlier: Earlier = ()) -> bytes:
        """Run a unit; returns a ``Done``, as bytes.

        Raises:
            SaebenchError: the work itself cannot be done, by any worker.
        """


class Job(Protocol):
    """Work as it is sent to processes: it is pickled, so that it holds names and settings, no weights."""

    @property
    def device(self) -> str | None:
        """Such as ``cpu``; None for the accelerator where there is one."""

    @property
    def threads(self) -> int | None:
        """Of a worker; None leaves torch's default."""

    def worker(self) -> Worker:
        """A worker, in the process that calls this."""


def start(job: Job) -> Worker:
    """A job's worker in this process, with the job's number of threads."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return job.worker()


def attempt(worker: Worker, unit: Unit, earlier: Earlier) -> tuple[str, Any]:
    """``("done", bytes)``, or ``("failed", words)`` where an exception ended the unit: the worker lives on."""
    try:
        return "done", worker.run(unit, earlier)
    except Exception as error:
        return "failed", in_words(error)
