"""Progress bars with a rate and a remaining time, or silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.text import Text


class _RateColumn(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: BarTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="dim")


class Progress:
    """Reports long work on the terminal (standard error), or nowhere.

    Args:
        shown: whether to report at all.
    """

    def __init__(self, shown: bool = True) -> None:
        self.console = Console(stderr=True)
        self.shown = shown

    @contextmanager
    def task(self, words: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
        """A bar for work of ``total`` ``unit``; within the context, call the value with each amount done."""
        if not self.shown:
            yield lambda amount: None
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _RateColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=self.console) as bars:
            number = bars.add_task(words, total=total, unit=unit)
            yield lambda amount: bars.advance(number, amount)

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """A spinner for work whose length is not known."""
        if not self.shown:
            yield
            return
        with Bars(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=self.console) as bars:
            bars.add_task(words, total=None)
            yield
