"""Precision on demand: rows are evaluated until standard errors are as small as requested.

The errors are looked at after 64 rows and then after 1.5 times as many each time, not after each batch. Each look is a
chance to stop on an error that is too small by accident, which goes along with values that are too small where rows are
skewed; with few looks and no early ones, that shifts the estimate by less than a tenth of its error (the simulation in
``tests/evaluation/test_precision.py``).
All autoencoders of a hook are evaluated on the same rows, so that their results can be compared row by row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, StreamingEvaluator
from saebench.parsing import names_in
from saebench.results import Reached
from saebench.results.metrics import HEADLINE
from saebench.results.ratios import RATIOS
from saebench.results.statistics import ratio_estimate

FIRST_ROWS = 64
GROWTH = 1.5


MakeLooks = Callable[[int, int], "Looks"]
"""Makes looks for a text of so many rows of so many tokens."""


def looks(rows: int) -> list[int]:
    """The numbers of rows after which errors are looked at; the last is ``rows``."""
    found, at = [], FIRST_ROWS
    while at < rows:
        found.append(at)
        at = math.ceil(at * GROWTH)
    return [*found, rows]


def known_by_row(evaluators: Mapping[str, type[Evaluator]]) -> list[str]:
    """The metrics, by ``evaluator.name``, whose error over rows of text is known at any time during the pass."""
    return [
        path
        for path, ratio in RATIOS.items()
        if ratio.table == "by_row" and set(ratio.columns) <= set(_columns(evaluators.get(path.partition(".")[0])))
    ]


def _columns(evaluator: type[Evaluator] | None) -> tuple[str, ...]:
    return evaluator.row_columns if evaluator is not None and issubclass(evaluator, StreamingEvaluator) else ()


def choose_known(wanted: Sequence[str], evaluators: Mapping[str, type[Evaluator]]) -> list[str]:
    """The ``wanted`` metrics by ``evaluator.name``; without any, the headline metrics of these evaluators.

    Raises:
        SaebenchError: one is unknown, or has no standard error over rows that is known during the pass.
    """
    known = known_by_row(evaluators)
    if not known:
        raise SaebenchError(
            "None of the evaluators to run has errors over rows of text during the pass: add reconstruction or downstream."
        )
    if not wanted:
        return [path for path in HEADLINE if path in known] or known[:1]
    found = []
    for name in wanted:
        fitting = [path for path in known if name in (path, path.partition(".")[2])]
        if not fitting:
            raise SaebenchError(
                f"{name!r} is no metric with a standard error over rows that is known during the pass; these are: "
                f"{', '.join(path.partition('.')[2] for path in known)}."
            )
        found.append(fitting[0])
    return list(dict.fromkeys(found))


def parse_precision(text: str) -> dict[str, float]:
    """``2%``, ``0.02`` or ``kl_divergence=1%,normalised_mse=2%`` as relative standard errors by metric; ``""`` is all.

    Raises:
        SaebenchError: it is none of these, or an error is not between 0 and 100 %.
    """
    found: dict[str, float] = {}
    for part in names_in(text):
        name, equals, number = part.rpartition("=")
        if (not equals and len(names_in(text)) > 1) or (equals and not name.strip()) or name.strip() in found:
            raise SaebenchError(
                f"Cannot read the precision {text!r}: write 2%, or kl_divergence=1%,normalised_mse=2% with each metric once."
            )
        found[name.strip()] = share(number, "The precision")
    if not found:
        raise SaebenchError("The precision is empty: write 2%, or kl_divergence=1%,normalised_mse=2%.")
    return found


def share(text: str, what: str) -> float:
    """``2%`` or ``0.02`` as a number above 0 and below 1.

    Raises:
        SaebenchError: it is not; ``what`` begins the sentence.
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise SaebenchError(f"{what} is {text.strip()!r}; it must be a relative standard error such as 2% or 0.02.")
    return value


def targets_of(precision: str | float | Mapping[str, float], evaluators: Mapping[str, type[Evaluator]]) -> dict[str, float]:
    """The largest relative standard errors allowed, by ``evaluator.name``.

    Raises:
        SaebenchError: see ``parse_precision`` and ``choose_known``.
    """
    if isinstance(precision, Mapping):
        given = {name: share(str(value), f"The precision of {name}") for name, value in precision.items()}
    else:
        given = parse_precision(str(precision))
    if "" in given:
        return dict.fromkeys(choose_known((), evaluators), given[""])
    return dict(zip(choose_known(list(given), evaluators), given.values(), strict=True))


class Looks(ABC):
    """Looks at evaluators during a pass, and says when it can end.

    Args:
        paths: the metrics that are looked at, by ``evaluator.name``.
        rows: the most that are evaluated, of ``context`` tokens each.
    """

    def __init__(self, paths: Sequence[str], rows: int, context: int) -> None:
        self.paths, self.at, self.context = tuple(paths), looks(rows), context
        self.rows = 0

    @abstractmethod
    def __call__(self, evaluators: Sequence[Mapping[str, StreamingEvaluator]], rows: int) -> bool:
        """Look, and say whether no more rows are needed.

        Args:
            evaluators: those of each autoencoder that have not failed, by name.
            rows: how many were evaluated.
        """

    def reached(self, index: int) -> dict[str, Reached]:
        """For the result of one of the autoencoders: which precision was requested and reached, by metric."""
        return {}


class PrecisionLooks(Looks):
    """Ends the pass when the last error of all autoencoders is small enough; ``targets`` are by metric."""

    def __init__(self, targets: Mapping[str, float], rows: int, context: int) -> None:
        super().__init__(list(targets), rows, context)
        self.targets = dict(targets)
        self._reached: dict[tuple[int, str], Reached] = {}

    def __call__(self, evaluators: Sequence[Mapping[str, StreamingEvaluator]], rows: int) -> bool:
        """Whether every error is small enough after ``rows`` rows. Evaluators that failed are not waited for."""
        self.rows = rows
        for index, its in enumerate(evaluators):
            for path, target in self.targets.items():
                error = relative_error(its, path)
                met = error is not None and error <= target
                before = self._reached.get((index, path))
                since = rows * self.context if before is None or before.tokens is None else before.tokens
                self._reached[index, path] = Reached(target=target, relative_error=error, tokens=since if met else None)
        return all(each.tokens is not None for each in self._waited_for(evaluators))

    def _waited_for(self, evaluators: Sequence[Mapping[str, StreamingEvaluator]]) -> Iterator[Reached]:
        for (index, path), found in self._reached.items():
            if path.partition(".")[0] in evaluators[index]:
                yield found

    def reached(self, index: int) -> dict[str, Reached]:
        """What the metrics of one of the autoencoders reached, by ``evaluator.name``."""
        return {path: found for (number, path), found in self._reached.items() if number == index}


def relative_error(evaluators: Mapping[str, StreamingEvaluator], path: str) -> float | None:
    """The standard error of a metric over the size of its value; None where it is undefined."""
    evaluator, ratio = evaluators.get(path.partition(".")[0]), RATIOS[path]
    if evaluator is None:
        return None
    value, error = ratio_estimate(*ratio.of(evaluator.row_sums()))
    if value is None or error is None:
        return None
    if ratio.kind == "complement":
        value = 1 - value
    found = error / abs(value) if value else (0.0 if error == 0 else math.inf)
    return found if math.isfinite(found) else None
