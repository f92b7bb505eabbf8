"""Neuron2Graph: 256 latents of an 8,192-latent autoencoder, and the ratio to one latent and one variant at a time.

Wall time is extrapolated from fewer latents (``SAEBENCH_N2G_LATENTS``, 16 by default; 256 measures all). The two are timed
by processor time on the same latents in turn, since a shared machine's wall time says little about either.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import torch

from saebench.corpus import load_corpus
from saebench.explaining.n2g import Examples, build_tries
from saebench.explaining.protocol import read_protocol
from saebench.explaining.reader import LatentReader
from saebench.explaining.study import Ground, choose, divide, survey
from saebench.lm import LanguageModel
from saebench.progress import Progress

from ..explaining.slow_n2g import SlowModel, slow_trie
from ..explaining.test_n2g import as_plain
from .bench_evaluate import HOOK, random_sae
from .table import Row

TITLE = "Neuron2Graph (SmolLM2-135M, layer 15, 8,192 latents, TopK 32; 32 contexts of 64 tokens for each latent)"
WANTED, CONTEXT, TOKENS = 256, 64, 16_384
LATENTS = int(os.environ.get("SAEBENCH_N2G_LATENTS", "16"))
SLOW_LATENTS = int(os.environ.get("SAEBENCH_N2G_SLOW_LATENTS", "4"))
SLOW_EXAMPLES = int(os.environ.get("SAEBENCH_N2G_SLOW_EXAMPLES", "16"))


def run() -> list[Row]:
    model = LanguageModel.load("smollm2", dtype="float32")
    corpus = load_corpus("python-docs", model.tokenizer, context=CONTEXT, tokens=TOKENS)
    sae = random_sae()
    # All that a latent has is taken: the random directions' densities differ widely, and 32 are to be had of each.
    protocol = replace(read_protocol("gao2024"), keep_bos=True, least=32)
    ground = Ground.of(model.cut(HOOK), corpus, protocol, 0, Progress(False))
    sample = survey(ground, sae)
    chosen = choose(ground, sample, LATENTS)
    examples, _ = divide(ground, sample, chosen.latents)
    reader = LatentReader(ground.cut, sae, ground.bos)
    start, processor = time.perf_counter(), time.process_time()
    build_tries(reader, examples, ground.padding, protocol)
    wall, busy = time.perf_counter() - start, time.process_time() - processor
    scale = WANTED / len(chosen.latents)
    how = "measured" if scale == 1 else f"{wall:.0f} s for {len(chosen.latents)} latents, extrapolated"
    load = os.getloadavg()[0]
    spread = chosen.latents[:: max(1, len(chosen.latents) // SLOW_LATENTS)][:SLOW_LATENTS]
    cost = f"{reader.asked} readings, {reader.texts} texts, {reader.tokens} tokens"
    return [
        Row("256 latents, wall", f"{wall * scale / 60:.1f} min", "15 min", f"{how}; load {load:.1f}; {cost}"),
        Row(
            "256 latents, processor time over two cores",
            f"{busy * scale / 120:.1f} min",
            "15 min",
            f"{busy:.0f} s of processor time, {torch.get_num_threads()} threads, halved: an estimate, "
            "as if two cores shared the work evenly",
        ),
        against_slow(model, ground, examples, spread, sae),
    ]


def against_slow(model: LanguageModel, ground: Ground, examples: Examples, latents: list[int], sae: object) -> Row:
    """Both on the same examples of the same latents; the batched version has the advantage of many latents, so it is
    timed on all of them and its time divided."""
    slow = SlowModel(model, int(HOOK.split(".")[1]), sae, ground.bos)  # type: ignore[arg-type]
    numbers = torch.cat([(examples.latents == each).nonzero().squeeze(1)[:SLOW_EXAMPLES] for each in latents])
    some = Examples(*(each[numbers] for each in examples))
    reader = LatentReader(ground.cut, sae, ground.bos)  # type: ignore[arg-type]
    processor = time.process_time()
    tries = build_tries(reader, some, ground.padding, ground.protocol)
    fast_seconds = time.process_time() - processor
    processor, same = time.process_time(), 0
    for latent in latents:
        mine = (some.latents == latent).nonzero().squeeze(1).tolist()
        texts = [(some.tokens[each, -int(some.lengths[each]) :].tolist(), float(some.values[each])) for each in mine]
        paths = slow_trie(slow, latent, texts, ground.padding, {})
        same += paths.keys() == as_plain(tries[latent]).keys()
    slow_seconds = time.process_time() - processor
    return Row(
        "against one variant at a time",
        f"{slow_seconds / fast_seconds:.1f}x",
        "30x",
        f"{slow_seconds:.0f} s against {fast_seconds:.1f} s of processor time, {len(latents)} latents, {numbers.numel()} "
        f"examples, {slow.calls} forward passes; {same} of {len(latents)} tries with the same paths",
    )
