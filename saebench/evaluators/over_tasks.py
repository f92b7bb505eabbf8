"""What evaluators over probing tasks share: which tasks are asked for, whether their data are there, and the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Setup
from saebench.probing.class_texts import Unit, prepared_classes
from saebench.tasks import availability, find_tasks
from saebench.tasks.classes import ClassSet


class TaskEvaluator(Evaluator):
    """An evaluator with a number for each of several probing tasks; tasks without data are listed as missing.

    Class attributes:
        option_names: that it takes.
    """

    option_names: ClassVar[tuple[str, ...]] = ("tasks",)
    samples: ClassVar[tuple[str, ...]] = ("tasks", "missing")

    @classmethod
    def default_tasks(cls, setup: Setup) -> str:
        """The tasks, or the set of them, where the option ``tasks`` names none."""
        raise NotImplementedError

    @classmethod
    def requested(cls, setup: Setup) -> list[Any]:
        """The tasks: those of the option ``tasks`` (names and sets, with commas), else the default."""
        return find_tasks(str(setup.options.get("tasks") or cls.default_tasks(setup)), setup.data_dir)

    @classmethod
    def tasks_of(cls, setup: Setup) -> list[Any]:
        """``requested``, once for all autoencoders of the hook: a set is found by reading every definition."""
        wanted = sorted((name, str(value)) for name, value in setup.options.items())
        return setup.shared.once(f"tasks of {cls.name}: {wanted}", lambda: cls.requested(setup))

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where an option or a definition is invalid, or no task's data are available."""
        unknown = sorted(set(setup.options) - set(cls.option_names))
        if unknown:
            raise SaebenchError(f"{cls.name} has no option {unknown[0]!r}; it has {', '.join(cls.option_names)}.")
        if setup.data_dir is not None and not setup.data_dir.is_dir():
            raise SaebenchError(f"There is no data folder {setup.data_dir}: give an existing one with --data-dir.")
        tasks = cls.tasks_of(setup)
        if not any("" in availability(task, setup.data_dir).values() for task in tasks):
            reasons = "; ".join(dict.fromkeys(availability(tasks[0], setup.data_dir).values()))
            raise SaebenchError(
                f"None of the {len(tasks)} requested probing tasks has available data (for {tasks[0].name}: {reasons}): "
                "make the hub reachable, give a folder with the data with --data-dir, or install sae-probes."
            )

    def classes(self, of: ClassSet, train: int, test: int) -> Unit:
        """``prepared_classes`` with this seed and data, once for all autoencoders and evaluators of the hook."""
        setup = self.setup
        return setup.shared.once(
            f"classes {of.sha256} {train} {test} {setup.seed}",
            lambda: prepared_classes(of, train, test, setup.seed, setup.data_dir),
        )

    def over_tasks(
        self, words: str, one: Callable[[Any, Callable[[float], None]], dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """``one`` of every task, by name, and why others are missing.

        Raises:
            SaebenchError: none could be used.
        """
        tasks, progress = self.tasks_of(self.setup), self.setup.progress
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        with progress.task(words, total=len(tasks), unit="tasks") as advance:
            for task in tasks:
                try:
                    found[task.name] = one(task, advance)
                except SaebenchError as error:
                    missing[task.name] = str(error)
                    advance(1)
        if not found:
            raise SaebenchError(f"No task could be probed: {next(iter(missing.values()))}")
        if missing and progress.shown:
            named = f"{len(missing)} of {len(tasks)} probing tasks are missing: {', '.join(missing)}."
            progress.console.print(Text(f"{named} {next(iter(missing.values()))}"))
        return found, missing


class Steps:
    """Converts finished texts to fractions of a task, for the progress bar."""

    def __init__(self, advance: Callable[[float], None], texts: int) -> None:
        self._advance, self._texts = advance, texts

    def __call__(self, amount: float) -> None:
        """``amount`` more texts are done."""
        self._advance(amount / self._texts)
