"""What ``import saebench`` offers: evaluate autoencoders, load checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from saebench import checkpoints
from saebench.distributed.run import DistributedRun
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.files import check_writable
from saebench.notices import notice
from saebench.progress import Progress
from saebench.report.scorecard import Scorecard
from saebench.results.metrics import HEADLINE
from saebench.results.verdicts import failed_of
from saebench.suites import read_suite

load = checkpoints.load


@overload
def evaluate(sae: Sequence[Any], *, out: str | Path | None = None, resume: bool = False,
             progress: bool = True, suite: str | None = None, **settings: Any) -> list[Scorecard]: ...  # fmt: skip
@overload
def evaluate(sae: Any, *, out: str | Path | None = None, resume: bool = False,
             progress: bool = True, suite: str | None = None, **settings: Any) -> Scorecard: ...  # fmt: skip
def evaluate(
    sae: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    suite: str | None = None,
    **settings: Any,
) -> Scorecard | list[Scorecard]:
    """Evaluate one autoencoder, or several together.

    Args:
        sae: a checkpoint's path or hub name, a ``SparseAutoencoder``, any object with ``encode`` and ``decode``, or a list
            of these. Those on the same hook share every forward pass of the language model below it.
        out: where to write: a ``.json`` file for a single autoencoder, else a folder that gets a file for each.
        resume: resume from the results in ``out``; an error where they were made with other settings.
        progress: show progress bars on standard error.
        suite: ``quick``, ``standard`` or ``full``: pinned settings, see ``saebench.suites``.
        **settings: see ``EvaluationSettings``.

    Returns:
        A scorecard, or a list of them in the order given.

    Raises:
        SaebenchError: an argument is invalid; raised before heavy work where possible.
        SomeRejected: some of several checkpoints cannot be read; raised after the others were evaluated and saved.
    """
    several = isinstance(sae, list | tuple)
    candidates = list(sae) if several else [sae]
    if not candidates:
        raise SaebenchError("There is nothing to evaluate: give at least one checkpoint.")
    if suite is not None:
        settings = read_suite(suite).apply(settings)
    if out is not None and "://" in str(out):
        raise SaebenchError(f'{out} is no local folder: add --on local, or on="local" in Python, to write there.')
    run = EvaluationRun(
        candidates, EvaluationSettings(**settings), _targets(out, candidates), resume, Progress(progress),
        skip_unreadable=len(candidates) > 1,
    )  # fmt: skip
    _warn_of_failed(run.settings.evaluators)
    cards = [Scorecard(result) for result in run.run()]
    if run.rejected:
        raise SomeRejected(run.rejected, cards)
    return cards if several else cards[0]


def evaluate_on(
    saes: Sequence[str],
    workers: Workers,
    *,
    out: str | Path,
    resume: bool = False,
    progress: bool = True,
    suite: str | None = None,
    **settings: Any,
) -> list[Scorecard]:
    """Evaluate checkpoints on many workers: processes of this machine, or of a Ray cluster.

    The numbers are the same for any number of workers.

    Args:
        saes: paths or hub names.
        workers: where, and how many.
        out: a folder, or an address that fsspec can open, such as ``s3://bucket/results``; it gets a file for each.
        resume: go on from finished shards and results in ``out``.
        progress, suite, settings: as for ``evaluate``; the language model is given by name.

    Raises:
        SaebenchError: an argument is invalid, or the work does not fit into memory; raised before heavy work.
        SomeRejected: some checkpoints cannot be evaluated; raised after the others were evaluated and saved.
    """
    if suite is not None:
        settings = read_suite(suite).apply(settings)
    run = DistributedRun(saes, EvaluationSettings(**settings), unique_names(saes), str(out), resume, Progress(progress))
    _warn_of_failed(run.plan.settings.evaluators)
    cards = [Scorecard(result) for result in run.run(workers)]
    if run.rejected:
        raise SomeRejected(run.rejected, cards)
    return cards


def _warn_of_failed(evaluators: Sequence[str]) -> None:
    """A notice for each headline metric of these evaluators that `saebench audit` found to be no evidence."""
    for evaluator in evaluators:
        for verdict in failed_of(evaluator):
            if verdict.metric in HEADLINE:
                notice(f"{verdict.metric} is not evidence of an autoencoder's quality. {verdict.sentence}")


class SomeRejected(SaebenchError):
    """Some of several checkpoints cannot be read; the others were evaluated.

    Attributes:
        cards: of those that were evaluated, in the order given.
    """

    def __init__(self, rejected: Sequence[str], cards: Sequence[Scorecard]) -> None:
        of = len(rejected) + len(cards)
        super().__init__(f"{len(rejected)} of {of} checkpoints could not be evaluated: {' '.join(rejected)}")
        self.cards = list(cards)


def _targets(out: str | Path | None, candidates: Sequence[Any]) -> list[Path | None]:
    """The path of each result, checked to be writable. A single result may have the path of a file."""
    if out is None:
        return [None] * len(candidates)
    if len(candidates) == 1 and Path(out).suffix == ".json":
        check_writable(Path(out))
        return [Path(out)]
    places: list[Path | None] = [Path(out) / f"{name}.json" for name in unique_names(candidates)]
    for place in filter(None, places):
        check_writable(place)
    return places


def unique_names(candidates: Sequence[Any]) -> list[str]:
    """Names for the results of several autoencoders: their own, numbered where they are not unique."""
    names = [_short_name(candidate) for candidate in candidates]
    return [f"{name}-{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _short_name(candidate: Any) -> str:
    origin = candidate if isinstance(candidate, str | Path) else getattr(getattr(candidate, "info", None), "origin", None)
    text = str(origin or type(candidate).__name__).rstrip("/")
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in Path(text).name)
    return kept.strip(".-") or "sae"
