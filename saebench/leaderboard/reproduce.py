"""A submission against its checkpoint: a random part of it is evaluated again and compared value by value.

The rows of text, probing tasks and explained latents are drawn when a maintainer runs the check, so that a submitter
cannot know them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError, plain
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.leaderboard.benchmark import Benchmark
from saebench.leaderboard.submission import Submission
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.results import EvaluatorResult, Result
from saebench.sae import AnyAutoencoder

ARITHMETIC = 1e-3
"""Relative tolerance for other processors and batch sizes, of a value and of the mean size of its column."""
COUNTS = ("l0", "active", "zeroed", "converged", "tokens", "top1_agreement", "interventions", "positions", "predictions",
          "words", "main_latents", "stable")  # fmt: skip
"""Columns of counts, in which rounding can move a few."""
OF_PROBES = (
    "accuracy",
    "auc",
    "clean",
    "original",
    "falls",
    "gains",
    "probe_f1",
    "main_f1",
    "main_recall",
    "fraction",
    "full",
)
"""Shares of texts, words or letters that a probe decides, in which rounding can move a few."""
SHARE = 0.02
"""Tolerance of these."""
TASKS = {"probe_loss": "tasks", "sparse_probing": "tasks", "tpp": "sets", "scr": "sets"}
"""Evaluators over probing tasks, any of which can be evaluated alone, and the details with an object for each."""
OF_WHOLE_TEXT = ("row", "rows_per_group", "variance", "ce_mean_ablated", "explained")
"""What a row's sums do not determine on their own."""
OF_SAMPLE = ("latent", "stratum", "weight")


@dataclass(frozen=True)
class Part:
    """What is evaluated again.

    Attributes:
        rows: numbers of rows of text, in order; ``groups``: of the groups that the result's sums are in.
        tasks: probing tasks by evaluator; ``latents``: whose explanations are built again.
    """

    rows: Tensor
    groups: Tensor
    tasks: Mapping[str, tuple[str, ...]]
    latents: tuple[int, ...]

    def __str__(self) -> str:
        tasks = sum(map(len, self.tasks.values()))
        counts = {"row of text": self.rows.numel(), "probing task": tasks, "explained latent": len(self.latents)}
        return ", ".join(f"{count:,} {_plural(words, count)}" for words, count in counts.items() if count)


def _plural(words: str, count: int) -> str:
    first, space, rest = words.partition(" of ")
    return words if count == 1 else f"{first}s{space}{rest}"


def draw(result: Result, share: float, seed: int) -> Part:
    """A random part of a result: of its rows, and of the rows, tasks and latents that only some evaluators have."""
    generator = torch.Generator().manual_seed(seed)

    def some(values: Sequence[Any]) -> list[Any]:
        count = min(len(values), max(1, math.ceil(share * len(values))))
        return [values[place] for place in sorted(torch.randperm(len(values), generator=generator)[:count].tolist())]

    size = max([1, *(_size(found) for found in result.evaluators.values())])
    groups = set(some(range(-(-result.corpus.rows // size))))
    for found in result.evaluators.values():
        sampled = found.details.get("by_sampled_row") or found.details.get("by_row", {}).get("latents")
        if isinstance(sampled, dict) and sampled.get("row"):
            groups |= {row // size for row in some(sampled["row"])}
    chosen = torch.tensor(sorted(groups))
    rows = (chosen.unsqueeze(1) * size + torch.arange(size)).flatten()

    def tasks(*evaluators: str) -> dict[str, tuple[str, ...]]:
        there = [(name, result.evaluators[name].details) for name in evaluators if name in result.evaluators]
        return {name: tuple(some(sorted(details[TASKS[name]]))) for name, details in there}

    probed, explained = tasks("probe_loss"), result.evaluators.get("explainability")
    latents = () if explained is None else tuple(some(explained.details["by_latent"]["own"]["latent"]))
    probed |= tasks(
        *(name for name in TASKS if name not in probed)
    )  # last: a seed draws what it did before there were these
    return Part(rows[rows < result.corpus.rows], chosen, probed, latents)


def reproduce(
    submission: Submission,
    benchmark: Benchmark,
    sae: AnyAutoencoder,
    part: Part,
    data_dir: str | None,
    progress: Progress,
) -> list[str]:
    """Differences of the checkpoint's values from the submission's, as sentences without a full stop.

    Args:
        submission: it must pass the check.
        benchmark: of its leaderboard.
        sae: the checkpoint.
        part: what is evaluated again, with every evaluator of the submission, and its controls but for explanations.
        data_dir: a folder with probing data sets.
        progress: where it is shown.

    Raises:
        SaebenchError: the model, the text or a data set is not available, or the text or model differ from the submission's.
    """
    claimed = submission.result
    if sae.info.weights_sha256 != claimed.sae.weights_sha256:
        ours, theirs = sae.info.weights_sha256, claimed.sae.weights_sha256
        return [f"the checkpoint's weights have the hash {ours}, the submission's {theirs}"]
    problems: list[str] = []
    with progress.step(f"Loading {benchmark.model.name}"):  # once for both runs
        model = LanguageModel.load(benchmark.model.name, benchmark.model.dtype)
    for settings in _runs(claimed, replace(_settings(claimed, benchmark, part, data_dir), model=model)):
        (found,) = EvaluationRun([sae], settings, [None], False, progress).run()
        problems += _compared(claimed, found, part)
    return problems


def _runs(claimed: Result, settings: EvaluationSettings) -> Iterator[EvaluationSettings]:
    """Evaluators with the same controls together; explanations without, because a control has latents of its own."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name in settings.evaluators:
        measured = tuple(control for control, found in claimed.controls.items() if name in found)
        together.setdefault(() if name == "explainability" else measured, []).append(name)
    for controls, names in together.items():
        yield replace(settings, evaluators=names, controls=controls)


def _compared(claimed: Result, found: Result, part: Part) -> list[str]:
    if found.corpus.sha256 != claimed.corpus.sha256 or found.model.weights_sha256 != claimed.model.weights_sha256:
        raise SaebenchError(
            "This machine's text or model differs from the submission's: its values cannot be reproduced here."
        )
    problems = [f"{name} could not be evaluated: {words.removesuffix('.')}" for name, words in found.failures.items()]
    problems += _differences(claimed.evaluators, found.evaluators, part, "")
    for control, evaluators in found.controls.items():
        problems += _differences(claimed.controls.get(control, {}), evaluators, part, f"control {control}: ")
    return problems


def _settings(claimed: Result, benchmark: Benchmark, part: Part, data_dir: str | None) -> EvaluationSettings:
    corpus = benchmark.corpus
    options = {
        name: dict(given) for name, given in claimed.settings.get("options", {}).items() if name in claimed.evaluators
    }
    for name, tasks in part.tasks.items():
        options[name] = {**options.get(name, {}), "tasks": ",".join(tasks)}
    if part.latents:
        options["explainability"] = {**options.get("explainability", {}), "only": list(part.latents), "losses": False,
                                     "baselines": "unigram"}  # fmt: skip
    return EvaluationSettings(
        model=benchmark.model.name,
        hook=benchmark.hook_in,
        hook_out=benchmark.hook_out,
        corpus=corpus.name,
        corpus_revision=corpus.revision if "/" in corpus.name else None,
        tokens=corpus.tokens,
        context=corpus.context,
        bos=corpus.bos,
        exclude=corpus.excluded != "nothing",
        dtype=benchmark.model.dtype,
        seed=benchmark.seed,
        evaluators=list(claimed.evaluators),
        options=options,
        data_dir=data_dir,
        only_rows=part.rows,
    )


def _size(found: EvaluatorResult) -> int:
    by_row = found.details.get("by_row", {})
    return by_row.get("rows_per_group", 1) if isinstance(by_row, dict) else 1


def _differences(
    claimed: Mapping[str, EvaluatorResult], found: Mapping[str, EvaluatorResult], part: Part, where: str
) -> Iterator[str]:
    for name, now in found.items():
        for words, stated, value, slack in _pairs(name, claimed[name], now, part) if name in claimed else ():
            undefined = stated is None or value is None
            if (stated is not value) if undefined else abs((stated or 0.0) - (value or 0.0)) > slack:
                yield f"{where}{name}, {words} is stated as {_number(stated)}, but the checkpoint gives {_number(value)}"


Pair = tuple[str, float | None, float | None, float]


def _pairs(name: str, claimed: EvaluatorResult, found: EvaluatorResult, part: Part) -> Iterator[Pair]:
    """``(words, stated value, value found, tolerance)`` of every value that both have."""
    if name == "ablation":
        for kind, record in found.details["by_row"].items():
            yield from _by_number(claimed.details["by_row"][kind], record, "row", f"{kind} of ")
    elif name == "explainability":
        yield from _by_number(claimed.details["by_latent"]["own"], found.details["by_latent"]["own"], "latent", "")
        for reason in ("dead", "too_few_activations"):
            yield f"latents {reason}", claimed.details["not_scored"][reason], found.details["not_scored"][reason], 2.0
    elif name == "absorption":
        yield from _by_number(claimed.details["by_letter"], found.details["by_letter"], "letter", "")
    elif name in TASKS:
        for task, now in found.details[TASKS[name]].items():
            yield from _numbers(task, claimed.details[TASKS[name]].get(task, {}), now)
    elif isinstance(found.details.get("by_row"), dict):
        yield from _by_row(claimed.details["by_row"], found.details["by_row"], part)
        if "by_sampled_row" in found.details:
            yield from _by_number(claimed.details["by_sampled_row"], found.details["by_sampled_row"], "row", "sampled ")
    else:
        for key, metric in found.metrics.items():
            yield key, claimed.metrics[key].value, metric.value, ARITHMETIC * abs(metric.value or 0.0) + 1e-6


def _by_row(stated: Mapping[str, Any], found: Mapping[str, Any], part: Part) -> Iterator[Pair]:
    """Sums by row; the result's sums may be of groups of rows."""
    size = stated.get("rows_per_group", 1)
    place = torch.searchsorted(part.groups, part.rows // size)
    for column, values in found.items():
        if column in OF_WHOLE_TEXT:
            continue
        sums = torch.zeros(part.groups.numel(), dtype=torch.float64)
        sums.index_add_(0, place, torch.tensor(values, dtype=torch.float64))
        scale = float(sums.abs().mean())
        for group, value in zip(part.groups.tolist(), sums.tolist(), strict=True):
            where = f"row {group}" if size == 1 else f"rows from {group * size}"
            yield f"{column} of {where}", stated[column][group], value, _slack(column, value, scale)


def _by_number(stated: Mapping[str, Any], found: Mapping[str, Any], key: str, words: str) -> Iterator[Pair]:
    """Columns of which ``key`` numbers the lines; lines are compared that both have."""
    places = {number: place for place, number in enumerate(stated.get(key, []))}
    for column, values in found.items():
        if column in OF_WHOLE_TEXT or column in OF_SAMPLE:
            continue
        known = [abs(value) for value in values if value is not None]
        scale = sum(known) / len(known) if known else 0.0
        for number, value in zip(found[key], values, strict=True):
            if number in places:
                slack = _slack(column, value or 0.0, scale)
                yield f"{column} of {words}{key} {number}", stated[column][places[number]], value, slack


def _numbers(words: str, stated: Any, found: Any, of_probe: bool = False) -> Iterator[Pair]:
    """Losses and shares of a task, found by their keys; ``of_probe``: within an object of shares."""
    for key, value in found.items() if isinstance(found, dict) else ():
        before = stated.get(key) if isinstance(stated, dict) else None
        inside = of_probe or key in OF_PROBES
        if isinstance(value, dict):
            yield from _numbers(f"{words}, {key}", before, value, inside)
        elif inside or key in ("train_loss", "loss"):
            known, now = (each[0] if isinstance(each, list) else each for each in (before, value))  # with its error
            yield f"{words}: {key}", known, now, SHARE if inside else max(10 * ARITHMETIC * abs(now or 0.0), 1e-4)


def _slack(column: str, value: float, scale: float) -> float:
    if column.partition(" ")[0] in COUNTS:
        return 2.0 + 0.01 * abs(value)
    if column in OF_PROBES:
        return SHARE
    return ARITHMETIC * (abs(value) + scale) + 1e-9


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{plain(f'{value:.6g}')}"
