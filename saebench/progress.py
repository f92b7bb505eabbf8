"""Progress bars with a rate and a remaining time, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.text import Text

from saebench.terminal import terminal

T = TypeVar("T")
RATES = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))
"""Seconds in the unit of time of a rate, and its symbol."""


def rate_in_words(per_second: float, unit: str) -> str:
    """A rate in the first unit of time in which it is at least 1: ``3.2 tokens/min``, never ``0 tokens/s``."""
    for seconds, symbol in RATES:
        rate = per_second * seconds
        if rate >= 1 or symbol == RATES[-1][1]:
            return f"{rate:,.0f} {unit}/{symbol}" if rate >= 10 else f"{rate:.1f} {unit}/{symbol}"
    raise AssertionError


class _RateColumn(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: BarTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_in_words(speed, task.fields["unit"]) if speed else "", style="dim")


class Advance:
    """Reports the progress of a task. Called with the amount done; ``note`` shows current figures."""

    def __call__(self, amount: float = 1) -> None:
        """``amount`` more units are done."""

    def note(self, text: str) -> None:
        """Show ``text`` next to the bar until the next note."""

    def resize(self, total: float) -> None:
        """Set the remaining units, where they become known after the start of the task."""


class _Bar(Advance):
    """A task with a bar of its own."""

    def __init__(self, bars: Bars, words: str, total: float, unit: str) -> None:
        self._bars, self._figures, self._part = bars, "", ""
        self._number = bars.add_task(words, total=total, unit=unit, note="")

    def __call__(self, amount: float = 1) -> None:
        self._bars.advance(self._number, amount)

    def note(self, text: str) -> None:
        self._figures = text
        self._show()

    def resize(self, total: float) -> None:
        self._bars.update(self._number, total=total)

    def part(self, text: str) -> None:
        """Show what a part of the task is doing; empty when it is done."""
        self._part = text
        self._show()

    def _show(self) -> None:
        self._bars.update(self._number, note="  ".join(filter(None, (self._figures, self._part))))


class _Part(Advance):
    """A task within another: it shows its share in the other's bar."""

    def __init__(self, bar: _Bar, words: str, total: float) -> None:
        self._bar, self._words, self._total, self._done = bar, words.lower(), total, 0.0
        self(0)

    def __call__(self, amount: float = 1) -> None:
        self._done += amount
        self._bar.part(f"({self._words}: {self._done / self._total:.0%})" if self._total else f"({self._words})")


class Progress:
    """Shows progress on the terminal (standard error), or not at all. There is one bar at a time.

    Args:
        shown: whether to show progress.
    """

    def __init__(self, shown: bool = True) -> None:
        self.console = terminal(stderr=True)
        self.shown = shown
        self._bar: _Bar | None = None

    @contextmanager
    def task(self, words: str, total: float, unit: str) -> Iterator[Advance]:
        """Work of ``total`` ``unit``; within the context, call the value with each amount done.

        A task that starts within another has no bar of its own: the other's bar shows its progress.
        """
        if not self.shown:
            yield Advance()
        elif self._bar is not None:
            try:
                yield _Part(self._bar, words, total)
            finally:
                self._bar.part("")
        else:
            columns = (
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _RateColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", style="dim", markup=False),
            )  # fmt: skip
            with Bars(*columns, console=self.console) as bars:
                self._bar = _Bar(bars, words, total, unit)
                try:
                    yield self._bar
                finally:
                    self._bar = None

    def track(self, words: str, parts: Sequence[T], unit: str) -> Iterator[T]:
        """Iterate over ``parts`` as a task of as many ``unit``."""
        with self.task(words, len(parts), unit) as advance:
            for part in parts:
                yield part
                advance()

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """A spinner for work of unknown length; within a task, a note on its bar."""
        if not self.shown:
            yield
        elif self._bar is not None:
            with self.task(words, 0, ""):
                yield
        else:
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            with Bars(*columns, console=self.console) as bars:
                bars.add_task(words, total=None)
                yield
