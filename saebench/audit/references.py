"""Lenses on results of real reference autoencoders: floors, trajectory, confounds. Doses and recovery are not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from saebench.audit.output import as_json, write_audit
from saebench.audit.reference_runs import Cells, evaluate_cells
from saebench.audit.scores import Score, Subject, scores_of, with_figures
from saebench.audit.thresholds import read_thresholds
from saebench.audit.verdicts import Audited, audit_scores
from saebench.comparison.headline import trained_control
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.settings import EvaluationSettings
from saebench.files import check_writable
from saebench.notices import notice
from saebench.progress import Progress
from saebench.results import Result, read_result
from saebench.training.manifest import MANIFEST

NO_RESULTS = (MANIFEST, "verified.json")
"""Files that stand beside results: a sweep's manifest, and a leaderboard's list of reproduced entries."""


def audit_references(
    runs: Path,
    folder: Path,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> list[Audited]:
    """Audit metrics on reference autoencoders; writes ``audit.json`` and ``audit.html``.

    Args:
        runs: a folder of a sweep, whose autoencoders are evaluated into ``results`` in ``folder``, except for those
            that an earlier call has evaluated; or a folder with result files (``*.json``), such as a leaderboard's.
        folder: to write to.
        settings: of the evaluation of a sweep's autoencoders.
        progress: where progress is shown.
        workers: where the autoencoders are evaluated, and how many; None for this process.

    Raises:
        SaebenchError: there are no results and no runs, a file is no result, a result was made with other settings, or
            they are not of one language model, hook and text.
    """
    cells = Cells.of(runs)
    paths = [path for path in sorted(runs.glob("*.json")) if path.name not in NO_RESULTS]
    if paths and workers is not None:
        raise SaebenchError(f"{runs} holds results: --on is for evaluating the autoencoders of a sweep's folder.")
    if not paths and not cells.finished:
        raise SaebenchError(
            f"There is no result and no finished run in {runs}: give a folder with the .json files of "
            "`saebench evaluate`, or the folder of `saebench sweep`."
        )
    for name in ("audit.json", "audit.html"):
        check_writable(folder / name)
    if not paths:
        progress = progress or Progress(shown=False)
        paths = evaluate_cells(cells, settings or EvaluationSettings(), folder / "results", progress, workers)
    results = [read_result(path) for path in paths]
    benchmarks = {(each.model.name, each.sae.hook_in, each.corpus.name) for each in results}
    if len(benchmarks) > 1:
        raise SaebenchError(
            f"The results are of {len(benchmarks)} benchmarks (language model, hook, text): put each in a folder of its own."
        )
    scores = [score for result in results for score in result_scores(result)]
    thresholds = read_thresholds()
    audited = audit_scores(scores, thresholds)
    partial = [path.name for path, each in zip(paths, results, strict=True) if not each.complete]
    facts = {
        "audit": "references", "results": len(results), "model": results[0].model.name, "cells": cells.record(),
        "partial": partial,
    }  # fmt: skip
    failures = {name: message for each in results for name, message in each.failures.items()}
    lead = cells.sentence() if cells.finished else f"{len(results)} results."
    if partial:
        sentence = f"Not complete, so that lenses lack what is missing there: {', '.join(partial)}."
        notice(f"{sentence} `saebench evaluate --resume` completes a result.")
        lead = f"{lead} {sentence}"
    write_audit(audited, scores, as_json(audited, thresholds, facts, failures), folder, lead)
    return audited


def result_scores(result: Result) -> list[Score]:
    """The scores of a result and of the controls that it holds; a trained control has none: they are those of its cell."""
    evaluators = list(result.evaluators.values())
    config = result.sae.training.get("config", {})
    config = config if isinstance(config, dict) else {}
    control = trained_control(result)
    subject = with_figures(
        Subject(
            result.sae.origin, "control" if control else "trained", n=result.sae.n_latents, control=control,
            architecture=result.sae.architecture, seed=_whole(config.get("seed")),
            tokens=_whole(result.sae.training.get("tokens")),
        ),
        evaluators,
    )  # fmt: skip
    subject = replace(subject, cell=_cell(subject, config.get("k")))
    scores = scores_of(subject, evaluators)
    for name, its in () if control else result.controls.items():
        as_control = replace(subject, sae=f"{name} for {subject.sae}", role="control", control=name)
        scores += scores_of(as_control, its.values())
    return scores


def _cell(subject: Subject, k: object) -> str:
    """Width and sparsity: k where training says it, else the L0 to two digits."""
    sparsity = f"k={k}" if isinstance(k, int) else f"L0={subject.l0:.2g}" if subject.l0 is not None else "L0 unknown"
    return f"{subject.architecture} n={subject.n} {sparsity}"


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
