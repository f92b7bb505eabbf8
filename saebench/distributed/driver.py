"""Gives units to workers, keeps what they return, and deals with those that die."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from saebench.distributed.jobs import Job
from saebench.distributed.pools import Event, Loaded, Pool
from saebench.distributed.store import NoStore, Store
from saebench.distributed.units import Done, Unit
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.progress import Progress

MOST_DEATHS = 3
"""Workers that a unit may cost, before its autoencoders are tried one at a time, and one alone is given up."""


@dataclass
class _Pack:
    """Autoencoders of a hook that are evaluated together: which units have been done for each shard."""

    saes: tuple[int, ...]
    done: dict[tuple[int, int], list[Unit]] = field(default_factory=dict)
    ending: bool = False


@dataclass(frozen=True)
class Controlled:
    """A control that was evaluated: ``Unit.control``, and its result as JSON, or why it has none (``words``)."""

    control: str
    result: str = ""
    words: str = ""


class Driver:
    """Runs work on a pool: an evaluation, or, with no shards, a unit for each pack.

    Args:
        packs: numbers of autoencoders that are evaluated together.
        shards: of the text.
        one_by_one: whether evaluations end in a unit for each autoencoder, not for each pack.
        names: of the autoencoders, for messages.
        store: of finished units; those that are there already are not run again.
        finished: called with an autoencoder's number, its result as JSON, and the controls that it shares with others.
        progress: where progress is shown.
        work: what is done, for messages.
        needs_all: whether the first one that cannot be done ends the work with its error.
    """

    def __init__(
        self,
        packs: Sequence[tuple[int, ...]],
        shards: Sequence[tuple[int, int]],
        one_by_one: bool,
        names: Sequence[str],
        store: Store,
        finished: Callable[[int, str, Sequence[Controlled]], None],
        progress: Progress,
        work: str = "evaluation",
        needs_all: bool = False,
    ) -> None:
        self.shards, self.one_by_one, self.names = tuple(shards), one_by_one, names
        self.store, self.finished, self.progress, self.work = store, finished, progress, work
        self.needs_all = needs_all
        self.rejected: dict[int, str] = {}
        self.deaths: Counter[Unit] = Counter()
        self._packs = [_Pack(saes, {shard: [] for shard in shards}) for saes in packs]
        self._queue: deque[Unit] = deque()
        self._ended: dict[int, str] = {}  # results, which may wait for controls
        self._wants: dict[int, list[str]] = {}
        self._controls: dict[str, Controlled] = {}
        self._begun: set[str] = set()  # controls that have a unit

    def run(self, pool: Pool) -> dict[int, str]:
        """Run everything; returns why autoencoders were rejected, by number."""
        total = sum(len(pack.saes) for pack in self._packs) * (len(self.shards) + 1)
        with self.progress.task(self.work.capitalize(), total=total, unit="units") as self._advance:
            for pack in self._packs:
                self._add([Unit(pack.saes, shard) for shard in self.shards])
            self._end_packs()
            running: Counter[Unit] = Counter()
            while self._queue or running:
                while self._queue and (idle := pool.idle()):
                    unit, to = self._next(idle, running)
                    self._queue.remove(unit)
                    pool.submit(unit, self._earlier(unit), to)
                    running[unit] += 1
                for event in pool.events():
                    running -= Counter([event.unit])
                    self._handle(event)
                self._end_packs()
        return self.rejected

    def _next(self, idle: Sequence[Loaded], running: Mapping[Unit, int]) -> tuple[Unit, Loaded]:
        """A unit and the worker that gets it: loading autoencoders takes as long as evaluating them on many tokens.

        A worker goes on with those that it has, else it begins with those that no worker has begun, else it helps.
        """
        for unit in self._queue:
            if unit.saes in idle:
                return unit, unit.saes
        begun = {unit.saes for unit in running}
        return next((unit for unit in self._queue if unit.saes not in begun), self._queue[0]), idle[0]

    def _add(self, units: Sequence[Unit]) -> None:
        """Queue units of a shard, but for what an earlier run has finished."""
        for unit in units:
            if self._is_stored(unit):
                continue
            alone = unit.alone() if len(unit.saes) > 1 else []
            left = [each for each in alone if not self._is_stored(each)]
            self._queue += [unit] if len(left) == len(alone) else left

    def _is_stored(self, unit: Unit) -> bool:
        content = self.store.read(self._file(unit))
        if content is not None:
            self._note(unit, Done.from_bytes(content))
        return content is not None

    def _handle(self, event: Event) -> None:
        unit = event.unit
        if event.kind == "done":
            done = Done.from_bytes(event.content)
            if unit.rows is not None or (unit.control and done.results):
                self.store.write(self._file(unit), event.content)
            self._note(unit, done)
            return
        self.deaths[unit] += 1
        if event.kind == "died" and self.deaths[unit] < MOST_DEATHS:
            self._queue.appendleft(unit)
        elif len(unit.saes) > 1:
            self._queue.extendleft(unit.alone())
        else:
            words = str(event.content).rstrip(".")
            ended = f"it ended {MOST_DEATHS} workers ({words})"
            if unit.control:
                self._note_control(Controlled(unit.control, words=words if event.kind == "failed" else ended))
                return
            cause = f"its {self.work} fails: {words}" if event.kind == "failed" else ended
            self._reject(unit.saes[0], f"{self.names[unit.saes[0]]}: {cause}.")

    def _note(self, unit: Unit, done: Done) -> None:
        for number, words in done.rejected.items():
            self._reject(number, f"{self.names[number]}: {words}")
        if unit.control:
            for text in done.results.values():
                self._note_control(Controlled(unit.control, text))
            if not done.results:  # its autoencoder cannot be read any more: another one gives model and hook
                self._begun.discard(unit.control)
            return
        self._wants |= done.wants
        if unit.rows is not None:
            pack = next(each for each in self._packs if unit.saes[0] in each.saes)
            pack.done[unit.rows].append(unit)
        self._ended |= done.results
        for number in done.results:
            self._finish(number)
        self._advance(len(unit.saes))

    def _note_control(self, found: Controlled) -> None:
        self._controls[found.control] = found
        for number in self._ended:
            if found.control in self._wants.get(number, ()):
                self._finish(number)

    def _finish(self, number: int) -> None:
        """Hand an autoencoder's result on, once all of its controls are evaluated."""
        wanted = self._wants.get(number, ())
        if number not in self.rejected and all(each in self._controls for each in wanted):
            self.finished(number, self._ended[number], [self._controls[each] for each in wanted])

    def _add_controls(self, numbers: Sequence[int]) -> None:
        """Queue each control that the autoencoders need, once for all that share it, with any of them."""
        for number in numbers:
            for control in self._wants.get(number, ()):
                unit = Unit((number,), None, control)
                if control not in self._begun:
                    self._begun.add(control)
                    self._queue += [] if self._is_stored(unit) else [unit]

    def _reject(self, number: int, words: str) -> None:
        """Give an autoencoder up; the others of its units go on without it."""
        if self.needs_all:
            raise SaebenchError(words)
        self.rejected.setdefault(number, words)
        self._begun -= {unit.control for unit in self._queue if unit.saes == (number,)}
        left = (replace(unit, saes=tuple(each for each in unit.saes if each != number)) for unit in self._queue)
        self._queue = deque(unit for unit in left if unit.saes)

    def _end_packs(self) -> None:
        """Queue the end of each pack whose shards are all done, and the controls of its autoencoders."""
        for pack in self._packs:
            alive = tuple(each for each in pack.saes if each not in self.rejected)
            left = tuple(each for each in alive if each not in self._ended)
            there = (all(any(each in unit.saes for unit in units) for each in left) for units in pack.done.values())
            ends = not pack.ending and bool(left) and all(there)
            pack.ending = pack.ending or ends
            if pack.ending:
                self._add_controls(alive)
            if ends:
                whole = Unit(left, None)
                self._queue += whole.alone() if self.one_by_one else [whole]

    def _earlier(self, unit: Unit) -> list[list[bytes]]:
        """For the end of an evaluation, what was done for its autoencoders, by shard."""
        if unit.rows is not None or unit.control:
            return []
        pack = next(each for each in self._packs if unit.saes[0] in each.saes)
        wanted = set(unit.saes)
        return [
            [self.store.read(self._file(each)) or b"" for each in pack.done[shard] if wanted & set(each.saes)]
            for shard in self.shards
        ]

    def _file(self, unit: Unit) -> str:
        if unit.control:
            return f"control-{hashlib.sha256(unit.control.encode()).hexdigest()[:16]}.safetensors"
        saes = hashlib.sha256(repr(unit.saes).encode()).hexdigest()[:16]
        start, end = unit.rows or (0, 0)
        return f"rows-{start}-{end}-{saes}.safetensors"


def run_whole(
    job: Job, packs: Sequence[tuple[int, ...]], names: Sequence[str], work: str, workers: Workers, progress: Progress,
    needs_all: bool = False,
) -> tuple[dict[int, str], dict[int, str]]:  # fmt: skip
    """Run work that is not divided into shards: a unit for each pack.

    Args:
        job: whose workers give a result for each number of a unit.
        packs: numbers of what a worker does together; after a failure, or deaths, each is tried alone.
        names: of what is done, and ``work``: what that is, for messages.
        workers: where, and how many; ``progress``: where progress is shown.
        needs_all: whether the first one that cannot be done ends the work.

    Returns:
        Results as JSON, and why others are left out, by number.

    Raises:
        SaebenchError: the pool cannot start, or, with ``needs_all``, something cannot be done.
    """
    found: dict[int, str] = {}
    driver = Driver(
        packs, (), False, names, NoStore(), lambda number, text, _: found.update({number: text}), progress, work, needs_all
    )  # fmt: skip
    if packs:
        with closing(workers.start(job)) as pool:
            driver.run(pool)
    return found, driver.rejected
