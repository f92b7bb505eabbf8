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
from tests.benchmarks.saebench_asking import ROW, Clamped, ravel_passes, unlearning_passes, without_template
from tests.benchmarks.saebench_jobs import (
    HOOK,
    SEED,
    Job,
    comparable,
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
EVALUATIONS = ("core", "sparse_probing", "scr", "tpp", "absorption", "ravel", "unlearning", "autointerp")
TOGETHER = 8
SEQUENTIAL = dict.fromkeys(EVALUATIONS, 2) | {"core": 3, "sparse_probing": 3}
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
def per_token(cut: Cut, part: str) -> float:
    """Seconds of a token ``below`` the hook, ``above`` it, or above it without the unembedding (``blocks``), in 1,024."""
    rows = core_rows(cut.model, 8).tokens
    prefix = cut.prefix(rows)
    runs: dict[str, Callable[[], object]] = {
        "below": lambda: cut.prefix(rows), "above": lambda: cut.suffix(prefix.outputs, prefix),
        "blocks": lambda: cut.suffix_end(prefix.outputs, prefix),
    }  # fmt: skip
    return best_of(3, runs[part]) / rows.numel()


def floor(job: Job, cut: Cut, clamped: int) -> float:
    """Seconds of the passes through the language model that an evaluation cannot avoid; ``clamped``: unlearning's tokens."""
    below, count = per_token(cut, "below"), len(job.saes)
    if job.evaluation == "core":
        return job.sizes.rows * ROW * (below + per_token(cut, "above") * (1 + count))
    if job.evaluation == "autointerp":
        return job.asking.text * below
    if job.evaluation in ("ravel", "unlearning"):
        tokens = (
            ravel_passes(job.data_dir, job.asking, cut, count, SEED)
            if job.evaluation == "ravel"
            else unlearning_passes(job.data_dir, job.asking, cut, count, clamped, SEED)
        )
        return tokens[0] * below + tokens[1] * per_token(cut, "blocks")
    if job.evaluation == "absorption":  # prompts that begin alike share their tokens
        prompts = [each or [] for each in word_ids(job.sizes.words, cut.model.tokenizer)[1]]
        return below * len({tuple(ids[: stop + 1]) for ids in prompts for stop in range(len(ids))})
    texts = [text for unit in job.units().values() for text in unit.texts]
    lengths = map(len, cut.model.tokenizer(texts, add_special_tokens=False)["input_ids"])
    return below * sum(min(ROW, length + 1) for length in lengths)


def run() -> list[Row]:
    if not is_ready():
        return [Row("SAEBench", "not measured", note="SAEBENCH_SAES, SAEBENCH_DATA and SAEBENCH_TEXT are not set")]
    torch.set_num_threads(1)
    cut = without_template(LanguageModel.load("smollm2", dtype="float32")).cut(HOOK)
    rows = []
    for evaluation in os.environ.get("SAEBENCH_EVALUATIONS", ",".join(EVALUATIONS)).split(","):
        with tempfile.TemporaryDirectory() as scratch:
            rows += measured(evaluation, Path(scratch), cut)
    return rows


def measured(evaluation: str, folder: Path, cut: Cut) -> list[Row]:
    """Times of an evaluation, and its scores on the autoencoders that SAEBench evaluated."""
    eight = Job(evaluation, several(TOGETHER, folder))
    one, some = (replace(eight, saes=dict(list(eight.saes.items())[:count])) for count in (1, SEQUENTIAL[evaluation]))
    ours: list[tuple[Job, float, int]] = []
    for job in (one, eight):
        with empty_cache(folder / f"cache{len(job.saes)}"), comparable(job, folder / f"cities{len(job.saes)}") as ready:
            clamped = Clamped()
            with clamped.counted():
                found, seconds = run_ours(ready)
        ours.append((ready, seconds, clamped.tokens))
    with comparable(some, folder / "cities") as ready:
        prepare(ready, folder / "job", given=False)
        theirs = run_theirs(ready, folder / "job", "own")
    ends = theirs["processor"]
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    rows = []
    for (job, seconds, clamped_tokens), bar in zip(ours, ("3x", "10x"), strict=True):
        count = len(job.saes)
        its, least = ends[0] + each * (count - 1), floor(job, cut, clamped_tokens)
        what = f"{evaluation}, {'one' if count == 1 else f'each of {count}'}"
        note = f"floor {least / count:.2f} s: ours takes {seconds / least:.1f} times that"
        rows.append(Row(what, f"{seconds / count:.2f} s, SAEBench {its / count:.2f} s: {its / seconds:.1f}x", bar, note))
    for name in some.saes:
        rows += compared(name, found[name], {"own": theirs["found"][name]})
    return rows
