"""Activating examples: what collecting them costs beside the plain prefix + encode pass, and how large the state is."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from saebench.explaining.examples.collecting import ExampleCollector, ExampleSettings, collect, write_examples
from saebench.explaining.examples.ranked import Activations
from saebench.lm import Cut, LanguageModel
from saebench.progress import Progress
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus, load_corpus
from tests.benchmarks.bench_evaluate import CONTEXT, HOOK, random_sae
from tests.benchmarks.table import Row

TITLE = "Activating examples (SmolLM2-135M, layer 15)"
TOKENS, ROWS, REPEATS = 4096, 8, 3
WIDE, WIDE_TOKENS = 131_072, 200_000


def run() -> list[Row]:
    model = LanguageModel.load("smollm2", dtype="float32")
    corpus = load_corpus("python-docs", model.tokenizer, context=CONTEXT, tokens=TOKENS)
    cut = model.cut(HOOK)
    return [one_pass(cut, corpus), wide()]


@torch.no_grad()
def plain_pass(sae: SparseAutoencoder, cut: Cut, corpus: TokenCorpus) -> None:
    for tokens, excluded in zip(corpus.tokens.split(ROWS), corpus.excluded.split(ROWS), strict=True):
        sae.encode(cut.prefix(tokens).inputs[~excluded].float())


def one_pass(cut: Cut, corpus: TokenCorpus) -> Row:
    """The two in turn, by the processor time of this process: the median of the ratios, since a shared machine drifts."""
    sae, settings = random_sae(), ExampleSettings.defined()
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        plain_pass(sae, cut, corpus)
        for repeat in range(REPEATS):
            start = time.process_time()
            plain_pass(sae, cut, corpus)
            plain = time.process_time() - start
            start = time.process_time()
            found = collect(sae, cut, corpus, settings, ROWS, Progress(False))
            passed = time.process_time() - start
            write_examples(found, Path(scratch) / str(repeat))
            ratios.append((passed / plain, (time.process_time() - start) / plain))
    with_writing = statistics.median(both for _, both in ratios)
    measured = f"{statistics.median(ratio for ratio, _ in ratios):.2f}x"
    note = f"n = 8,192, {TOKENS:,} tokens; {with_writing:.2f}x with writing the folder (a fixed cost)"
    return Row("collecting against prefix + encode alone", measured, "1.3x", note)


def wide() -> Row:
    """200,000 tokens' codes of 131,072 latents, drawn at random: the collector alone."""
    generator = torch.Generator().manual_seed(0)
    collector = ExampleCollector(WIDE, CONTEXT, ExampleSettings.defined())
    spent, batch = 0.0, 64 * CONTEXT
    for first in range(0, WIDE_TOKENS, batch):
        latents = (torch.rand(batch * 32, generator=generator).square() * WIDE).long()
        places = torch.arange(first, first + batch).repeat_interleave(32)
        entries = Activations.sort(latents, places, torch.rand(batch * 32, generator=generator) + 0.01)
        start = time.perf_counter()
        collector.update(entries)
        spent += time.perf_counter() - start
    held = [collector.count, collector.sum, collector.histogram]
    for ranked in collector.ranked.values():
        held += [value for value in vars(ranked).values() if isinstance(value, torch.Tensor)]
    lists = sum(ranked._windows.stored for ranked in collector.ranked.values()) * 8
    size = (sum(tensor.numel() * tensor.element_size() for tensor in held) + lists) / 2**20
    what = f"the collector alone, n = {WIDE:,}, 32 active, {WIDE_TOKENS:,} tokens"
    return Row(what, f"{WIDE_TOKENS / spent:,.0f} tokens/s", "", f"state {size:.0f} MiB, whatever the number of tokens")
