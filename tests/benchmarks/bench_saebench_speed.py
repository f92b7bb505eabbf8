"""SAEBench 0.6's runner and ours, timed side by side with empty caches: one autoencoder, and eight together.

Seconds are processor time on one thread, which other processes of the machine do not change much.
Set-up is included on both sides: loading the language model and the autoencoders, texts, probes on the model. What a run
cannot avoid is its floor: the tokens that have to go through the language model, times the time per token.
SAEBench evaluates one autoencoder after the other: it runs on two or three, and its time for eight is that of the first and
seven times the mean of the others. ``SAEBENCH_EVALUATIONS`` limits the evaluations; see ``saebench_jobs`` for what else has
to be named.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from saebench import checkpoints
from saebench.checkpoints.convert import convert
from saebench.lm import Cut, LanguageModel
from saebench.lm.embedded import embedded_model_folder
from saebench.sae import SparseAutoencoder, TopK
from tests.benchmarks.bench_saebench_runner import compared
from tests.benchmarks.saebench_jobs import (
    HOOK,
    Job,
    any_number_of_letters,
    core_rows,
    given_saes,
    is_ready,
    prepare,
    run_ours,
    run_theirs,
    word_ids,
)
from tests.benchmarks.table import Row

TITLE = "SAEBench 0.6's runner and ours: processor seconds with empty caches (SmolLM2-135M, layer 15)"
EVALUATIONS = ("core", "sparse_probing", "scr", "tpp", "absorption")
TOGETHER = 8
SEQUENTIAL = {"core": 3, "sparse_probing": 3, "scr": 2, "tpp": 2, "absorption": 2}
"""Autoencoders that SAEBench evaluates one after the other."""


def several(count: int, folder: Path) -> dict[str, Path]:
    """The given autoencoders, and copies with their latents in another order, which no cache takes for the same."""
    found = given_saes()
    loaded = [each for each in map(checkpoints.load, found.values()) if isinstance(each, SparseAutoencoder)]
    sources = [each for each in loaded if isinstance(each.activation, TopK)]
    for number in range(count - len(found)):
        sae = sources[number % len(sources)]
        order = torch.randperm(sae.n_latents, generator=torch.Generator().manual_seed(number))
        copy = replace(sae, W_enc=sae.W_enc[:, order], W_dec=sae.W_dec[order], b_enc=sae.b_enc[order])
        found[f"copy{number}"] = convert(copy, folder / f"copy{number}", "saebench")
    return dict(list(found.items())[:count])


@contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """A cache that has the language model alone, in the form in which SAEBench reads it too."""
    model = embedded_model_folder()
    folder.mkdir()
    (folder / "gguf").symlink_to(model.parent)
    with patch.dict(os.environ, {"SAEBENCH_CACHE": str(folder)}):
        yield


def best_of(times: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


@functools.cache
def per_token(cut: Cut, above: bool) -> float:
    """Seconds of a token in the layers below the hook, or above it, in a batch of 1,024."""
    rows = core_rows(cut.model, 8).tokens
    prefix = cut.prefix(rows)
    run = (lambda: cut.suffix(prefix.outputs, prefix)) if above else (lambda: cut.prefix(rows))
    return best_of(3, run) / rows.numel()


def floor(job: Job, cut: Cut) -> float:
    """Seconds of the passes through the language model that an evaluation cannot avoid."""
    below = per_token(cut, above=False)
    if job.evaluation == "core":
        return job.sizes.rows * 128 * (below + per_token(cut, above=True) * (1 + len(job.saes)))
    if job.evaluation == "absorption":  # prompts that begin alike share their tokens
        prompts = [each or [] for each in word_ids(job.sizes.words, cut.model.tokenizer)[1]]
        return below * len({tuple(ids[: stop + 1]) for ids in prompts for stop in range(len(ids))})
    texts = [text for unit in job.units().values() for text in unit.texts]
    lengths = map(len, cut.model.tokenizer(texts, add_special_tokens=False)["input_ids"])
    return below * sum(min(128, length + 1) for length in lengths)


def run() -> list[Row]:
    if not is_ready():
        return [Row("SAEBench", "not measured", note="SAEBENCH_SAES, SAEBENCH_DATA and SAEBENCH_TEXT are not set")]
    torch.set_num_threads(1)
    cut = LanguageModel.load("smollm2", dtype="float32").cut(HOOK)
    rows = []
    for evaluation in os.environ.get("SAEBENCH_EVALUATIONS", ",".join(EVALUATIONS)).split(","):
        with tempfile.TemporaryDirectory() as scratch:
            rows += measured(evaluation, Path(scratch), cut)
    return rows


def measured(evaluation: str, folder: Path, cut: Cut) -> list[Row]:
    """Times of an evaluation, and its scores on the autoencoders that SAEBench evaluated."""
    eight = Job(evaluation, several(TOGETHER, folder))
    one, some = (replace(eight, saes=dict(list(eight.saes.items())[:count])) for count in (1, SEQUENTIAL[evaluation]))
    ours: list[tuple[Job, float]] = []
    for job in (one, eight):
        with empty_cache(folder / f"cache{len(job.saes)}"), any_number_of_letters():
            found, seconds = run_ours(job)
        ours.append((job, seconds))
    prepare(some, folder / "job", given=False)
    theirs = run_theirs(some, folder / "job", "own")
    ends = theirs["processor"]
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    rows = []
    for (job, seconds), bar in zip(ours, ("3x", "10x"), strict=True):
        count = len(job.saes)
        its, least = ends[0] + each * (count - 1), floor(job, cut)
        what = f"{evaluation}, {'one' if count == 1 else f'each of {count}'}"
        note = f"floor {least / count:.2f} s: ours takes {seconds / least:.1f} times that"
        rows.append(Row(what, f"{seconds / count:.2f} s, SAEBench {its / count:.2f} s: {its / seconds:.1f}x", bar, note))
    for name in some.saes:
        rows += compared(name, found[name], {"own": theirs["found"][name]})
    return rows
