"""Where units run: processes of this machine. ``ray_pool`` has the same interface for a cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from saebench.distributed.jobs import Earlier, Job, attempt, start
from saebench.distributed.units import Unit
from saebench.errors import SaebenchError
from saebench.lm.placement import EVERY

Loaded = tuple[int, ...]
"""Numbers of the autoencoders that a worker has loaded; empty for a new one."""


@dataclass(frozen=True)
class Event:
    """The end of a unit: ``done`` with its content, ``failed`` with words, or ``died``: its worker is gone."""

    unit: Unit
    kind: str
    content: Any = None


class Pool(Protocol):
    """Workers that run units; one that dies is replaced."""

    def idle(self) -> list[Loaded]:
        """For each worker that waits for a unit, the autoencoders that it has loaded."""

    def submit(self, unit: Unit, earlier: Earlier, to: Loaded) -> None:
        """Give a unit to a worker that waits and has loaded ``to``."""

    def events(self) -> list[Event]:
        """Wait until something happens; empty where that was no end of a unit."""

    def close(self) -> None:
        """End all workers."""


def _serve(job: Job, gpus: str | None, connection: Connection) -> None:
    """The main function of a worker's process."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    worker = start(job)
    while True:
        try:
            unit, earlier = connection.recv()
        except EOFError:
            return
        connection.send(attempt(worker, unit, earlier))


class LocalPool:
    """Processes of this machine; with GPUs, each has one of them to itself, or with the device ``all`` its share of them.

    Args:
        job: the work.
        workers: how many processes.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._context = job, multiprocessing.get_context("spawn")
        self._gpus = gpus_of(job.device, workers)
        self._workers: list[tuple[Any, Connection]] = []
        self._busy: dict[int, Unit] = {}  # by place in the list
        self._loaded: list[Loaded] = [()] * workers
        for place in range(workers):
            self._workers.append(self._started(place))

    def _started(self, place: int) -> tuple[Any, Connection]:
        mine, its = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._job, _visible(self._gpus[place]), its), daemon=True)
        process.start()
        its.close()  # else its end is never seen
        return process, mine

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process, _ in self._workers]

    def idle(self) -> list[Loaded]:
        """For each worker that waits for a unit, the autoencoders that it has loaded."""
        return [loaded for place, loaded in enumerate(self._loaded) if place not in self._busy]

    def submit(self, unit: Unit, earlier: Earlier, to: Loaded) -> None:
        """Give a unit to a worker that waits and has loaded ``to``."""
        place = next(each for each, loaded in enumerate(self._loaded) if each not in self._busy and loaded == to)
        self._busy[place], self._loaded[place] = unit, unit.saes
        with contextlib.suppress(OSError):  # it died while it waited: its connection has ended, which ``events`` sees
            self._workers[place][1].send((unit, earlier))

    def events(self) -> list[Event]:
        """Wait until units end or workers die."""
        connections = {self._workers[place][1]: place for place in self._busy}
        found = []
        for ready in wait(list(connections)):
            assert isinstance(ready, Connection)
            place = connections[ready]
            unit = self._busy.pop(place)
            try:
                found.append(Event(unit, *ready.recv()))
            except (EOFError, OSError):
                process = self._workers[place][0]
                process.join()
                found.append(Event(unit, "died", f"its process ended with code {process.exitcode}"))
                self._workers[place], self._loaded[place] = self._started(place), ()
        return found

    def close(self) -> None:
        """End all workers."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
            process.join()


def gpus_of(device: str | None, workers: int) -> list[list[int]]:
    """For each worker of this machine, the numbers of its GPUs; empty on a CPU, and where devices are named by number.

    Raises:
        SaebenchError: there are fewer GPUs than workers that need some for themselves.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == EVERY and 0 < count < workers:
        raise SaebenchError(f"--device all divides {count} GPUs among {workers} workers: use at most {count}.")
    if device not in (None, "cuda", EVERY) or not count:
        return [[] for _ in range(workers)]
    if device == EVERY:
        return [list(range(place * count // workers, (place + 1) * count // workers)) for place in range(workers)]
    return [[place % count] for place in range(workers)]


def _visible(gpus: list[int]) -> str | None:
    """The value of CUDA_VISIBLE_DEVICES with which a process sees only these."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else None
    return ",".join(str(each) if names is None else names[each] for each in gpus) or None
