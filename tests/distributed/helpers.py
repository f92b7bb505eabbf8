"""Pools for tests: workers within this process, some of which die."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saebench.distributed.jobs import Earlier, Job, attempt, start
from saebench.distributed.pools import Event, Loaded
from saebench.distributed.units import Unit
from saebench.distributed.workers import Workers


def never(unit: Unit, number: int) -> bool:
    """No unit ends its worker."""
    return False


class InlinePool:
    """``count`` workers in this process, which take turns; ``dies`` says which units end their worker."""

    def __init__(self, job: Job, count: int, dies: Callable[[Unit, int], bool] = never) -> None:
        self.job, self.workers, self.dies = job, [start(job) for _ in range(count)], dies
        self.given: deque[tuple[Unit, Earlier]] = deque()
        self.log: list[Unit] = []
        self.turn = 0

    def idle(self) -> list[Loaded]:
        return [()] * (len(self.workers) - len(self.given))

    def submit(self, unit: Unit, earlier: Earlier, to: Loaded) -> None:
        self.given.append((unit, earlier))

    def events(self) -> list[Event]:
        unit, earlier = self.given.pop()  # the last first, so that units end out of order
        self.log.append(unit)
        self.turn = (self.turn + 1) % len(self.workers)
        if self.dies(unit, len(self.log)):
            self.workers[self.turn] = start(self.job)
            return [Event(unit, "died", "killed")]
        return [Event(unit, *attempt(self.workers[self.turn], unit, earlier))]

    def close(self) -> None:
        pass


def pools_here(monkeypatch: pytest.MonkeyPatch, dies: Callable[[Unit, int], bool] = never) -> list[InlinePool]:
    """From now on, workers are within this process; their pools are in the list."""
    made: list[InlinePool] = []

    def start_here(workers: Workers, job: Any) -> InlinePool:
        made.append(InlinePool(job, workers.count or 1, dies))
        return made[-1]

    monkeypatch.setattr(Workers, "start", start_here)
    return made


class Inline(Workers):
    """Workers of an ``InlinePool``, which is kept in ``pool``."""

    pool: InlinePool

    def __init__(self, count: int, dies: Callable[[Unit, int], bool] = lambda unit, number: False, **more: Any) -> None:
        super().__init__(count=count, threads=None, **more)
        object.__setattr__(self, "dies", dies)

    def start(self, job: Job) -> InlinePool:
        object.__setattr__(self, "pool", InlinePool(job, self.count or 1, self.dies))  # type: ignore[attr-defined]
        return self.pool


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
