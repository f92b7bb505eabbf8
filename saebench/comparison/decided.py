"""Two checkpoints, evaluated on the same rows until their difference is decided.

The paired difference is looked at after few, spaced numbers of rows (``saebench.evaluation.precision``). Several looks would
make a difference by chance more likely than 5 %, so each look has an interval of level ``1 - 0.05 / looks`` (Bonferroni):
over all looks together, at most one decision in twenty between equal autoencoders is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluation.precision import Looks, choose_known, share
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.evaluators.base import StreamingEvaluator, find_evaluators
from saebench.progress import Progress
from saebench.results import Result
from saebench.results.ratios import RATIOS
from saebench.results.statistics import influence_error, ratio_influence

LEVEL = 0.05
MOST_TOKENS = 262_144
"""Tokens after which a difference is left undecided, unless the user says otherwise."""


@dataclass(frozen=True)
class Margin:
    """The largest difference that does not matter: of the metric itself, or (``relative``) of the first one's value."""

    size: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Margin:
        """From ``2%`` or ``0.01``.

        Raises:
            SaebenchError: it is neither.
        """
        if text.strip().endswith("%"):
            return cls(share(text, "The margin"), relative=True)
        try:
            size = float(text)
        except ValueError:
            size = -1.0
        if not 0 < size < float("inf"):
            raise SaebenchError(f"The margin is {text!r}; it must be a positive number such as 0.01, or a share such as 2%.")
        return cls(size)


@dataclass(frozen=True)
class Decision:
    """What is known of a metric's difference.

    Attributes:
        metric: by ``evaluator.name``.
        first, second: the two values; ``interval``: of ``second - first``, at the level of one look.
        tokens: of text, after which this was known.
        outcome: ``lower`` or ``higher`` (the second than the first), ``within the margin``, or ``undecided``.
    """

    metric: str
    first: float
    second: float
    interval: tuple[float, float]
    tokens: int
    outcome: str


class PairedLooks(Looks):
    """Ends the pass when the difference of two autoencoders is decided for every metric.

    Attributes:
        decisions: by metric; those that are decided stay as they were at the look that decided them.
    """

    def __init__(self, paths: Sequence[str], margin: Margin | None, rows: int, context: int) -> None:
        super().__init__(paths, rows, context)
        self.margin = margin
        self.decisions: dict[str, Decision] = {}

    def __call__(self, evaluators: Sequence[Mapping[str, StreamingEvaluator]], rows: int) -> bool:
        """Whether every difference is decided after ``rows`` rows.

        Raises:
            SaebenchError: an evaluator failed on one of the two.
        """
        self.rows = rows
        if len(evaluators) != 2:
            raise SaebenchError(
                "The two SAEs do not read the same activations (one looks at earlier tokens): evaluate each."
            )
        for path in self.paths:
            if path in self.decisions and self.decisions[path].outcome != "undecided":
                continue
            name = path.partition(".")[0]
            if any(name not in its for its in evaluators):
                raise SaebenchError(f"{name} failed on one of the two checkpoints: evaluate them one by one to see why.")
            first, second = (RATIOS[path].of(its[name].row_sums()) for its in evaluators)
            self.decisions[path] = self._decide(path, first, second)
        return all(each.outcome != "undecided" for each in self.decisions.values())

    def _decide(self, path: str, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Decision:
        from scipy.stats import t

        values = [float(a.sum() / b.sum()) for a, b in (first, second)]
        change = ratio_influence(*second) - ratio_influence(*first)
        if RATIOS[path].kind == "complement":
            values, change = [1 - value for value in values], -change
        error = influence_error(change)
        groups = change.numel()
        half = float("inf") if error is None else float(t.ppf(1 - LEVEL / len(self.at) / 2, groups - 1)) * error
        difference = values[1] - values[0]
        low, high = difference - half, difference + half
        margin = 0.0 if self.margin is None else self.margin.size * (abs(values[0]) if self.margin.relative else 1.0)
        outcome = "undecided"
        if high < 0 or low > 0:
            outcome = "lower" if high < 0 else "higher"
        if self.margin is not None and -margin < low and high < margin:
            outcome = "within the margin"
        return Decision(path, values[0], values[1], (low, high), self.rows * self.context, outcome)


def until_decided(
    first: Any,
    second: Any,
    *,
    metrics: Sequence[str] = (),
    margin: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> tuple[list[Decision], list[Result]]:
    """Evaluate two checkpoints on the same rows until their difference is decided.

    Args:
        first, second: as for ``evaluate``; both must be of one hook.
        metrics: by name; the headline metrics by default. Those of ``reconstruction`` and ``downstream`` that are means over
            rows.
        margin: a difference that does not matter, such as ``2%`` (of the first one's value) or ``0.01``.
        progress: show a progress bar.
        **settings: see ``EvaluationSettings``; ``tokens`` is the limit.

    Returns:
        What is known of each metric, and the results on the rows that were evaluated.

    Raises:
        SaebenchError: an argument is invalid, or the hooks differ; raised before heavy work.
    """
    chosen = EvaluationSettings(**({"tokens": MOST_TOKENS} | settings))
    evaluators = find_evaluators(chosen.evaluators)
    paths = choose_known(metrics, evaluators)
    scaled = [path for path in paths if RATIOS[path].kind == "scaled"]
    if scaled:
        raise SaebenchError(f"The scale of {scaled[0]} is known only at the end of the text: leave it out.")
    known = None if margin is None else Margin.parse(margin)
    for each in (first, second):
        if isinstance(each, str | Path) and Path(each).suffix == ".json" and Path(each).is_file():
            raise SaebenchError(f"{each} is a result, which has all its rows already: give checkpoints to --until-decided.")
    made: list[PairedLooks] = []

    def looking(rows: int, context: int) -> PairedLooks:
        made.append(PairedLooks(paths, known, rows, context))
        return made[-1]

    run = EvaluationRun([first, second], chosen, [None, None], False, Progress(progress), looking=looking)
    if len(set(run.hooks)) > 1:
        raise SaebenchError("The checkpoints are of different hooks: a difference is decided between SAEs of one hook.")
    results = run.run()
    return list(made[0].decisions.values()), results
