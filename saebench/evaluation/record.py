"""One autoencoder's result during a run: written after each evaluator, and read again on resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.evaluation.engine import Clock
from saebench.evaluation.settings import EvaluationSettings
from saebench.evaluators.base import Evaluator
from saebench.lm import Cut
from saebench.provenance import corpus_record, environment, model_record, sae_record
from saebench.results import EvaluatorResult, Reached, Result, check_same_run, read_result, write_result
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus


class Record:
    """One autoencoder's result during a run.

    Attributes:
        on_write: called with the result so far whenever it is to be written.
    """

    def __init__(
        self,
        sae: Autoencoder,
        cut: Cut,
        corpus: TokenCorpus,
        settings: EvaluationSettings,
        evaluators: Mapping[str, type[Evaluator]],
        path: Path | None,
        stages: Mapping[str, float],
        notices: Sequence[str],
    ) -> None:
        self.sae, self.path, self.evaluators = sae, path, evaluators
        self.controls_wanted = settings.controls
        self.notices, self._earlier_notices = notices, list[str]()
        self.finished: dict[str, EvaluatorResult] = {}
        self.failures: dict[str, str] = {}
        self.controls: dict[str, dict[str, EvaluatorResult]] = {}
        self.stages = dict(stages)
        self.on_write: Callable[[Result], object] | None = None
        self._fixed: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sae": sae_record(sae, cut),
            "model": model_record(cut.model),
            "corpus": corpus_record(corpus),
            "seed": settings.seed,
            "settings": {"options": {name: dict(each) for name, each in settings.options.items()}}
            | ({"suite": settings.suite} if settings.suite else {}),
            "environment": environment(*cut.model.devices),
        }

    def open(self, resume: bool) -> None:
        """Read the existing file's results, or check that it may be replaced.

        Raises:
            SaebenchError: the file was made with other settings, or is not a result.
        """
        if self.path is not None and resume and self.path.exists():
            self._resume(self.path)
        elif self.path is not None and not resume and self.path.exists() and self.path.stat().st_size:
            self._keep_unrelated(self.path)

    def _resume(self, path: Path) -> None:
        earlier = read_result(path)
        if "controls" in earlier.settings:
            self._fixed["settings"]["controls"] = dict(earlier.settings["controls"])
        check_same_run(earlier, self.result().identity(), self.evaluators, path)
        before = earlier.settings.get("options", {})
        self._fixed["settings"]["options"] |= {name: before[name] for name in before if name in earlier.evaluators}
        self.finished, self.stages = dict(earlier.evaluators), {**earlier.stages, **self.stages}
        self.controls = dict(earlier.controls)
        self._earlier_notices = earlier.notices
        self._fixed["created"] = earlier.created
        self._fixed["definitions"] = earlier.definitions

    def _keep_unrelated(self, path: Path) -> None:
        """An existing result file is replaced; any other file at that path is not."""
        try:
            read_result(path)
        except SaebenchError as error:
            raise SaebenchError(f"{path} exists and is not a result file of this version; choose another path.") from error

    def stopped(self, corpus: TokenCorpus, reached: Mapping[str, Reached]) -> None:
        """Record that only the rows of ``corpus`` are evaluated, because errors were small enough by then."""
        self._fixed |= {"corpus": corpus_record(corpus), "precision": dict(reached)}

    def uses(self, definitions: dict[str, str]) -> None:
        """Record the definition files of an evaluator.

        Raises:
            SaebenchError: the result that is resumed was made with other versions of them.
        """
        before = self._fixed.get("definitions", {})
        changed = sorted(name for name in before.keys() & definitions.keys() if before[name] != definitions[name])
        if changed:
            raise SaebenchError(f"{self.path} was made with another {changed[0]}.toml: write to another file.")
        self._fixed["definitions"] = before | definitions

    def finish(self, name: str, compute: Callable[[], EvaluatorResult], seconds: float | None) -> None:
        """Record an evaluator's result, or its failure."""
        timer = Clock()
        try:
            with timer.stage(name):
                found = compute()
        except Exception as error:
            self.failures[name] = in_words(error)
            return
        took = timer.seconds[name] + (seconds or 0.0)
        self.finished[name] = found.model_copy(update={"duration_seconds": took})
        self.failures.pop(name, None)

    def add_control(self, name: str, result: Result, made: dict[str, int]) -> None:
        """Record a control's metrics and failures, and how it was made, and write.

        Of its details those are kept that the metrics follow from.
        """
        self._fixed["settings"].setdefault("controls", {})[name] = made
        self.controls[name] = self.controls.get(name, {}) | _sampled(result.evaluators, self.evaluators)
        self.failures |= _of_control(name, result.failures)
        self.write()

    def share_control(self, name: str, other: Record) -> None:
        """Take a control's metrics from the record of another autoencoder with the same control, and write."""
        made = other._fixed["settings"]["controls"][name]
        self._fixed["settings"].setdefault("controls", {})[name] = made
        self.controls[name] = dict(other.controls[name])
        self.write()

    def result(self) -> Result:
        """The result so far."""
        return Result(
            complete=all(name in self.finished for name in self.evaluators) and self._controlled(),
            evaluators=self.finished,
            controls=self.controls,
            failures=self.failures,
            stages={name: round(seconds, 3) for name, seconds in self.stages.items()},
            notices=list(dict.fromkeys([*self._earlier_notices, *self.notices])),
            **self._fixed,
        )

    def _controlled(self) -> bool:
        """Whether every requested control has the same evaluators as the autoencoder itself."""
        each = (self.controls.get(name, {}) for name in self.controls_wanted)
        return all(name in found for found in each for name in self.evaluators)

    def write(self) -> None:
        """Write the finished results, where a file was requested."""
        if self.path is not None:
            write_result(self.result(), self.path)
        if self.on_write is not None:
            self.on_write(self.result())


def with_control(
    result: Result, name: str, found: Result | str, made: dict[str, int], evaluators: Mapping[str, type[Evaluator]]
) -> Result:
    """A finished result with a control that was evaluated apart, as ``Record.add_control`` adds it.

    Args:
        result: of the autoencoder; ``name``: of the control.
        found: the control's own result, or why there is none.
        made: how it was made.
        evaluators: by name.
    """
    failures = dict.fromkeys(evaluators, found) if isinstance(found, str) else found.failures
    kept = {} if isinstance(found, str) else _sampled(found.evaluators, evaluators)
    return result.model_copy(
        update={
            "complete": result.complete and all(each in kept for each in evaluators),
            "controls": {name: kept} | result.controls if kept else result.controls,
            "failures": result.failures | _of_control(name, failures),
            "settings": result.settings | {"controls": {name: made} | result.settings.get("controls", {})},
        }
    )


def _sampled(found: Mapping[str, EvaluatorResult], evaluators: Mapping[str, type[Evaluator]]) -> dict[str, EvaluatorResult]:
    """A control's results, with those of their details that the metrics follow from."""
    kept = {name: {each: made.details[each] for each in evaluators[name].samples if each in made.details}
            for name, made in found.items()}  # fmt: skip
    return {name: made.model_copy(update={"details": kept[name]}) for name, made in found.items()}


def _of_control(name: str, failures: Mapping[str, str]) -> dict[str, str]:
    return {f"{each} ({name} control)": words for each, words in failures.items()}


def in_words(error: Exception) -> str:
    """An error as text for a result file."""
    return str(error) if isinstance(error, SaebenchError) else f"{type(error).__name__}: {error}"
