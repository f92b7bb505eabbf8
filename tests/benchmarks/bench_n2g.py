"""Neuron2Graph: 256 latents of a trained 8,192-latent autoencoder, and the ratio to one latent and one variant at a time.

Wall time is extrapolated from fewer latents (``SAEBENCH_N2G_LATENTS``, 32 by default; 256 measures all). The plain version
runs on some of the latents alone. What it takes is set against the batched version's time for the same latents; and, for as
many forward passes as all latents would need, against its time for all of them together, which is how it is used.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from saebench import checkpoints
from saebench.explaining.examples.sampling import HookInputs
from saebench.explaining.n2g.graphs import Examples
from saebench.explaining.n2g.packing import TOKENS_PER_BATCH
from saebench.explaining.n2g.reader import LatentReader
from saebench.explaining.n2g.study import StudyInputs, choose, divide, sample_activations, tries_of
from saebench.explaining.n2g.trie import Trie
from saebench.explaining.protocol import read_protocol
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import load_corpus
from saebench.training.config import TrainingConfig
from saebench.training.run import train
from saebench.training.sources import open_source
from tests.benchmarks.bench_evaluate import HOOK
from tests.benchmarks.table import Row
from tests.explaining.n2g.slow_n2g import SlowModel, slow_trie
from tests.explaining.n2g.test_n2g import as_plain

TITLE = "Neuron2Graph (SmolLM2-135M, layer 15, TopK of 8,192 latents; 32 contexts of 64 tokens, half of them for the trie)"
TRAINED, CACHE = Path("runs") / "topk-8192", Path("runs") / "cache"
TRAINING = TrainingConfig(
    n=8192, k=32, batch=2048, tokens=2_000_000, lr=1e-3, warmup_steps=10, decay_share=0.3, dead_after_tokens=100_000,
    corpus_skip=16_384, corpus_tokens=262_144, context=128,
)  # fmt: skip
WANTED, CONTEXT, TOKENS = 256, 64, 65_536
LATENTS = int(os.environ.get("SAEBENCH_N2G_LATENTS", "32"))
SLOW_LATENTS = int(os.environ.get("SAEBENCH_N2G_SLOW_LATENTS", "4"))


class Timed(NamedTuple):
    tries: dict[int, Trie]
    seconds: float
    readings: int
    tokens: int
    cost: str


def run() -> list[Row]:
    sae = trained()
    model = LanguageModel.load("smollm2", dtype="float32")
    corpus = load_corpus("python-docs", model.tokenizer, context=CONTEXT, tokens=TOKENS)
    protocol = replace(read_protocol("gao2024"), least=32)
    ground = StudyInputs.of(HookInputs(model.cut(HOOK), corpus), protocol, 0, Progress(False))
    sample = sample_activations(ground, sae)
    chosen = choose(ground, sample, LATENTS).latents
    examples, _ = divide(ground, sample, chosen)
    before = plain_speeds(ground)
    fast = timed(ground, sae, examples, chosen)
    scale = WANTED / len(chosen)
    how = "measured" if scale == 1 else f"{fast.seconds:.0f} s for {len(chosen)}, extrapolated"
    speed = statistics.median([*before, *plain_speeds(ground)])
    floor = f"{speed:.0f} tokens a second in plain batches, before and after"
    rows = [
        Row("256 latents", f"{fast.seconds * scale / 60:.1f} min", "15 min", f"{how}; {fast.cost}"),
        Row("as many tokens through the layers below", f"{fast.tokens * scale / speed / 60:.1f} min", "", floor),
    ]
    return rows + against_slow(model, ground, examples, chosen, sae, fast)


def trained() -> SparseAutoencoder:
    """One that was trained to the end: the texts that make an undertrained one's latents fire are longer."""
    if not (TRAINED / "sae.safetensors").exists():
        train([TRAINING], open_source(TRAINING, CACHE, Progress()), [TRAINED], progress=Progress())
    sae = checkpoints.load(TRAINED)
    assert isinstance(sae, SparseAutoencoder)
    return sae


def plain_speeds(ground: StudyInputs) -> list[float]:
    """Tokens a second of the layers below the hook, ten times, for texts of 32 tokens without masks."""
    texts = ground.corpus.tokens[: TOKENS_PER_BATCH // 32, :32]
    speeds = []
    for _ in range(10):
        start = time.perf_counter()
        ground.cut.prefix(texts)
        speeds.append(texts.numel() / (time.perf_counter() - start))
    return speeds


def timed(ground: StudyInputs, sae: SparseAutoencoder, examples: Examples, latents: list[int]) -> Timed:
    reader = LatentReader(ground.cut, sae, ground.bos)
    start = time.perf_counter()
    tries = tries_of(ground, reader, examples, latents)
    seconds = time.perf_counter() - start
    cost = f"{reader.asked} readings, {reader.texts} texts, {reader.tokens} tokens"
    return Timed(tries, seconds, reader.asked, reader.tokens, cost)


def against_slow(
    model: LanguageModel, ground: StudyInputs, examples: Examples, latents: list[int], sae: SparseAutoencoder, fast: Timed
) -> list[Row]:
    """The plain version on a few latents spread over the densities; the same few, and all of them, in batches."""
    slow = SlowModel(model, int(HOOK.split(".")[1]), sae, ground.bos)
    few = latents[:: max(1, len(latents) // SLOW_LATENTS)][:SLOW_LATENTS]
    alone = timed(ground, sae, examples, few)
    start, same = time.perf_counter(), 0
    for latent in few:
        mine = (examples.latents == latent).nonzero().squeeze(1).tolist()
        texts = [
            (examples.tokens[each, -int(examples.lengths[each]) :].tolist(), float(examples.values[each])) for each in mine
        ]
        paths = slow_trie(slow, latent, texts, ground.padding, {})
        same += paths.keys() == as_plain(fast.tries[latent]).keys()
    seconds = time.perf_counter() - start
    each = seconds / slow.calls
    note = f"{slow.calls} forward passes of {each:.3f} s, extrapolated; {same} of {len(few)} tries the same"
    return [
        Row("against one variant at a time", f"{each * fast.readings / fast.seconds:.1f}x", "30x", note),
        Row(
            "on those latents alone",
            f"{seconds / alone.seconds:.1f}x",
            "",
            f"{alone.seconds:.1f} s in batches; {alone.cost}",
        ),
    ]
