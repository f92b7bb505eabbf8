"""SAEBench 0.6's whole runner and ours on the same autoencoders, texts and seeds: every score side by side.

``SAEBENCH_EVALUATIONS`` limits the evaluations; see ``saebench_jobs`` for what else has to be named.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.results import EvaluatorResult
from tests.benchmarks.saebench_jobs import (
    Job,
    Sizes,
    comparable,
    given_saes,
    is_ready,
    prepare,
    run_ours,
    run_theirs,
)
from tests.benchmarks.table import Row

TITLE = "SAEBench 0.6's runner and ours (SmolLM2-135M, layer 15)"
EVALUATIONS = ("core", "sparse_probing", "scr", "tpp", "absorption", "ravel", "unlearning", "autointerp")
DRAWS = {each: ("own", "given") for each in EVALUATIONS} | {"core": ("own",), "autointerp": ("own",)}
"""Core has no random choice; autointerp's latents and windows are not given."""
OURS = {
    "explained_variance": "explained_variance_saebench", "mse": "mse_saebench",
    "mean_absorption_fraction_score": "absorption_fraction", "mean_full_absorption_score": "full_absorption",
    "mean_num_split_features": "main_latents", "disentanglement_score": "disentanglement", "cause_score": "cause",
    "isolation_score": "isolation",
}  # fmt: skip
"""Our names of SAEBench's scores, where they differ."""


def flat(categories: Mapping[str, Any] | None) -> dict[str, float]:
    """Scores by name, without those that SAEBench marks as not measured."""
    found = {name: value for each in (categories or {}).values() for name, value in each.items()}
    return {name: value for name, value in found.items() if isinstance(value, float) and value != -1}


def compared(name: str, ours: EvaluatorResult, theirs: Mapping[str, Any]) -> list[Row]:
    """A row for each score that both have; ``theirs`` by draws."""
    rows = []
    scores = {draws: flat(each) for draws, each in theirs.items()}
    for score in next(iter(scores.values())):
        mine = ours.metrics.get(OURS.get(score, score))
        if mine is None or mine.value is None:
            continue
        error = f" ± {mine.standard_error:.4f}" if mine.standard_error is not None else ""
        notes = [
            f"SAEBench, {draws} draws: {each[score]:.5f}, difference {mine.value - each[score]:+.6f}"
            for draws, each in scores.items()
        ]
        rows.append(Row(f"{ours.name} {name} {score}", f"{mine.value:.5f}{error}", note="; ".join(notes)))
    return rows


def wanted_draws(evaluation: str) -> tuple[str, ...]:
    """SAEBench's own random choices, or ours given to it, or both: ``SAEBENCH_DRAWS``, else all."""
    wanted = os.environ.get("SAEBENCH_DRAWS", "own,given").split(",")
    return tuple(each for each in DRAWS[evaluation] if each in wanted)


def run() -> list[Row]:
    if not is_ready():
        return [Row("SAEBench", "not measured", note="SAEBENCH_SAES, SAEBENCH_DATA and SAEBENCH_TEXT are not set")]
    rows = []
    for evaluation in os.environ.get("SAEBENCH_EVALUATIONS", ",".join(EVALUATIONS)).split(","):
        job = Job(evaluation, given_saes(), Sizes(words=800), padded=False, stop=16)  # 800 have every letter
        with tempfile.TemporaryDirectory() as scratch, comparable(job, Path(scratch) / "cities") as job:
            ours, seconds = run_ours(job)
            folder = Path(scratch) / "job"
            prepare(job, folder, given=True)
            theirs = {draws: run_theirs(job, folder, draws) for draws in wanted_draws(evaluation)}
        note = ", ".join(f"SAEBench {each['processor'][-1]:.0f} s ({draws} draws)" for draws, each in theirs.items())
        rows.append(Row(f"{evaluation}: {len(ours)} autoencoders", f"{seconds:.0f} s", note=note))
        for name, found in ours.items():
            rows += compared(name, found, {draws: each["found"][name] for draws, each in theirs.items()})
    return rows
