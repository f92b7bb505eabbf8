"""The audits that commands run, whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from saebench.audit.output import as_json, verdict_data, write_audit
from saebench.audit.plan import QUICK, Plan
from saebench.audit.planted_jobs import run_plan
from saebench.audit.thresholds import read_thresholds
from saebench.audit.unplanted import UNPLANTED, without_lenses
from saebench.audit.verdicts import Audited, audit_scores
from saebench.distributed.workers import Workers
from saebench.evaluators.base import find_evaluators
from saebench.files import check_writable, write_text
from saebench.progress import Progress


def audit_planted(
    folder: Path,
    quick: bool = False,
    seed: int = 0,
    evaluator: str = "",
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> list[Audited]:
    """Audit metrics on the planted model; writes ``audit.json``, ``audit.html`` and, unless quick, ``verdicts.json``.

    Args:
        folder: to write to.
        quick: few doses and autoencoders, in under a minute; no verdict of it can be carried by the package.
        seed: of the world, the damages and the training.
        evaluator: the only one to audit, besides the reconstruction error that others are held against.
        workers: where, and how many; None for this process. The numbers do not depend on it.
        progress: where progress is shown.

    Raises:
        SaebenchError: there is no such evaluator, it cannot run on the planted model, or the folder cannot be written,
            or the workers cannot start.
    """
    plan, unplanted = (QUICK, []) if quick else (Plan(), list(UNPLANTED))
    if evaluator:
        find_evaluators([evaluator])
        unplanted = [evaluator] if evaluator in UNPLANTED else []
        own = () if unplanted else (evaluator,)
        plan = replace(plan, evaluators=tuple(dict.fromkeys(("reconstruction", *own))), options=Plan().options)
    for name in ("audit.json", "audit.html"):
        check_writable(folder / name)
    thresholds = read_thresholds()
    scores, failures = run_plan(plan, seed, workers, progress)
    audited = [*audit_scores(scores, thresholds, plan.tokens), *without_lenses(unplanted)]
    facts: dict[str, Any] = {"audit": "planted", "quick": quick, "seed": seed, "tokens": plan.tokens}
    data = as_json(audited, thresholds, facts, failures)
    write_audit(audited, scores, data, folder)
    if not quick:
        write_text(folder / "verdicts.json", verdict_data(data))
    return audited
