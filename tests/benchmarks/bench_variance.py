"""Where the variance of metrics is; for ablation: between rows, between tokens of a row, and between latents of a token.

The suites' samples were chosen by it (docs/suites.md). Every active latent of some tokens is ablated; a balanced nested
analysis of variance gives the components, and these the standard error of any design with its cost in positions that the
layers above the hook run. ``SAEBENCH_SAE`` and ``SAEBENCH_TEXT`` name a checkpoint and a held-out text.

The variance of the others is read from two results of one suite in the folder ``SAEBENCH_RESULTS``: the errors,
the spread of one unit of sampling, and what pairing two SAEs by these units saves.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import torch

from saebench.comparison.samples import Sample, combine, sample
from saebench.evaluation.run import prepare
from saebench.evaluators.ablation import Ablation
from saebench.evaluators.base import Setup
from saebench.evaluators.shared import make_shared
from saebench.progress import Progress
from saebench.results import Result, read_result
from saebench.results.metrics import HEADLINE
from tests.benchmarks.table import Row

TITLE = "Variance by level of sampling"
TOKENS, TOKENS_PER_ROW, CONTEXT, HORIZON = 24, 3, 128, 16
BASELINES = 2
FORMER = "64 latents of 2 tokens a row"
DESIGNS = {
    FORMER: (2, 64, BASELINES),
    "4 latents of 4 tokens a row": (4, 4, BASELINES),
    "1 latent of 4 tokens a row": (4, 1, BASELINES),
}
"""By name: tokens in a row, latents of each, and baselines of each kind."""


class Components(NamedTuple):
    """Variances between rows, between tokens of a row, and between latents of a token; ``latents`` active at a token."""

    rows: float
    tokens: float
    latents: float
    active: float

    def standard_error(self, rows: int, tokens: int, latents: int) -> float:
        """Of the mean over a design's ablations; the latents of a token are a finite population."""
        left = max(0.0, 1 - latents / self.active) if latents < self.active else 0.0
        within = self.latents * left / latents
        return math.sqrt((self.rows + (self.tokens + within) / tokens) / rows)


def components(values: torch.Tensor, active: float) -> Components:
    """From a balanced sample ``[rows, tokens, latents]``, by the method of moments; negative estimates become 0."""
    _, tokens, latents = values.shape
    within = float(values.var(dim=2).mean())
    token_means = values.mean(dim=2)
    between_tokens = float(token_means.var(dim=1).mean())
    between_rows = float(token_means.mean(dim=1).var())
    token = max(0.0, between_tokens - within / latents * max(0.0, 1 - latents / active))
    return Components(max(0.0, between_rows - between_tokens / tokens), token, within, active)


def cost(tokens: int, latents: int, baselines: int) -> float:
    """Positions that the layers above the hook run for one row: both whole rows, and each intervention's own."""
    return 2 * CONTEXT + tokens * HORIZON * (min(latents, 32) + 2 * baselines + 2)


def paired(first: Sample, second: Sample) -> tuple[float, float]:
    """Standard errors of a difference, paired by units and with the units taken as independent."""
    return combine([(1.0, first), (-1.0, second)]).error or math.nan, math.hypot(
        first.error or math.nan, second.error or math.nan
    )


def sampled(first: Result, second: Result) -> list[Row]:
    """For each headline metric of both results: its error, the spread of one unit, and the error of the difference."""
    rows = []
    for path in HEADLINE:
        a, b = sample(first, path), sample(second, path)
        if a is None or b is None or a.error is None:
            continue
        units = len(a.influence) if a.influence is not None else 0
        spread = (
            f"{units} {a.unit or 'units'}, spread of one {a.error * math.sqrt(units):.3g}" if units else "no units recorded"
        )
        with_pairs, without = paired(a, b)
        rows.append(
            Row(
                f"{path} = {a.value:.4g}",
                f"± {a.error:.2g}",
                "",
                f"{spread}; difference ± {with_pairs:.2g}, unpaired {without:.2g}",
            )
        )
    return rows


def of_tasks(first: Result, second: Result) -> list[Row]:
    """The spread of a task's difference in held-out probe loss, and how much of it the held-out texts can explain."""
    if any("probe_loss" not in result.evaluators for result in (first, second)):
        return []
    found = [result.evaluators["probe_loss"].details["tasks"] for result in (first, second)]
    tasks = [{name: each["best_latent"]["held_out"] for name, each in made.items()} for made in found]
    shared = sorted(tasks[0].keys() & tasks[1].keys())
    differences = torch.tensor([tasks[0][name]["loss"] - tasks[1][name]["loss"] for name in shared])
    errors = torch.tensor([[each[name]["standard_error"] for name in shared] for each in tasks])
    texts = float(errors.square().sum(dim=0).mean().sqrt())
    words = f"{len(shared)} tasks; of texts at most {texts:.3g} (unpaired)"
    return [Row("spread of one task's difference in probe_loss_held_out", f"{float(differences.std()):.3g}", "", words)]


def run() -> list[Row]:
    rows = of_ablation()
    if folder := os.environ.get("SAEBENCH_RESULTS"):
        first, second = [read_result(each) for each in sorted(Path(folder).glob("*.json"))[:2]]
        rows += sampled(first, second) + of_tasks(first, second)
    return rows


def of_ablation() -> list[Row]:
    checkpoint, text = os.environ.get("SAEBENCH_SAE"), os.environ.get("SAEBENCH_TEXT")
    if not checkpoint or not text:
        return [Row("variance components", "not measured", "", "set SAEBENCH_SAE and SAEBENCH_TEXT")]
    sae, cut, corpus = prepare(checkpoint, Progress(False), corpus=text, tokens=32_768, context=CONTEXT, dtype="float32")
    options = {"tokens": TOKENS, "tokens_per_row": TOKENS_PER_ROW, "latents_per_token": 10_000, "baselines_per_token": 1}
    shared = make_shared(corpus, len(cut.model.tokenizer), cut.parts)
    ablation = Ablation(Setup(sae, cut, corpus, shared, 0, options, progress=Progress()))
    ablation.compute()
    found = [each.sparsity[each.sparsity.isfinite()] for each in ablation.found["latents"]]
    generator = torch.Generator().manual_seed(0)
    least = min(each.numel() for each in found)
    values = torch.stack([each[torch.randperm(each.numel(), generator=generator)[:least]] for each in found])
    parts = components(values.reshape(-1, TOKENS_PER_ROW, least), sum(map(len, found)) / len(found))
    total = parts.rows + parts.tokens + parts.latents
    rows = [
        Row(f"variance between {name}", f"{value:.3g}", "", f"{value / total:.0%} of the variance of a single ablation")
        for name, value in (("rows", parts.rows), ("tokens of a row", parts.tokens), ("latents of a token", parts.latents))
    ]
    budget = 16 * cost(*DESIGNS[FORMER])
    for name, (tokens, latents, baselines) in DESIGNS.items():
        count = budget / cost(tokens, latents, baselines)
        error = parts.standard_error(1, tokens, latents) / math.sqrt(count)
        rows.append(Row(f"standard error of {name}", f"{error:.4f}", "", f"{count:.0f} rows, {budget:,.0f} positions"))
    return rows
