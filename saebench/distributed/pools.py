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


def _serve(job: Job, device: str | None, connection: Connection) -> None:
    """The main function of a worker's process."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    worker = start(job)
    while True:
        try:
            unit, earlier = connection.recv()
        except EOFError:
            return
        connection.send(attempt(worker, unit, earlier))


class LocalPool:
    """Processes of this machine; with GPUs, each has one of them to itself.

    Args:
        job: the work.
        workers: how many processes.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._context = job, multiprocessing.get_context("spawn")
        self._devices = _devices(job.device)
        self._workers: list[tuple[Any, Connection]] = []
        self._busy: dict[int, Unit] = {}  # by place in the list
        self._loaded: list[Loaded] = [()] * workers
        for place in range(workers):
            self._workers.append(self._started(place))

    def _started(self, place: int) -> tuple[Any, Connection]:
        mine, its = self._context.Pipe()
        device = self._devices[place % len(self._devices)] if self._devices else None
        process = self._context.Process(target=_serve, args=(self._job, device, its), daemon=True)
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


def _devices(device: str | None) -> list[str]:
    """The GPUs that workers take turns with; none on a CPU, or where the device is named by number."""
    import torch

    if device not in (None, "cuda") or not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(each) for each in range(torch.cuda.device_count())]
