"""Ablations of single latents: time and numbers against the whole model run again for each, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor

from saebench.evaluators.splicing.interventions import Interventions, SplicedRow, sample_tokens
from saebench.lm import LanguageModel
from saebench.lm.loading import load_pretrained
from saebench.text.corpus import TokenCorpus, load_corpus
from tests.benchmarks.bench_evaluate import HOOK, random_sae
from tests.benchmarks.table import Row
from tests.evaluators.slow_ablation import measure, run_with_residual

TITLE = "Ablation (SmolLM2-135M, layer 15, context 64, T = 16)"
CONTEXT, HORIZON, TOKENS, LATENTS, LAYER = 64, 16, 40, 25, 15
PLAIN_PER_TOKEN = 2
"""The plain way is timed on this many of each token's ablations, right after ours on the same token."""


def small_corpus(model: LanguageModel) -> TokenCorpus:
    return load_corpus("python-docs", model.tokenizer, context=CONTEXT, tokens=32 * CONTEXT)


def run() -> list[Row]:
    sae, model = random_sae(), LanguageModel.load("smollm2", "float32")
    plain = load_pretrained("smollm2", "float32", ("cpu",), None).model.eval()
    corpus, cut = small_corpus(model), model.cut(HOOK)
    interventions = Interventions(cut, HORIZON, batch=48)
    ours = theirs = 0.0
    count = plain_count = 0
    differences: list[float] = []
    for number, positions in sample_tokens(corpus, TOKENS, 2, HORIZON, seed=0).items():
        start = time.perf_counter()
        row = SplicedRow.make(sae, cut, corpus.tokens[number], corpus.excluded[number])
        passed = interventions.start(row.outputs, row.prefix)
        ours += time.perf_counter() - start
        for position in positions:
            start = time.perf_counter()
            _, without = row.without_each(sae, position, LATENTS, torch.Generator().manual_seed(0))
            found = interventions.effects(passed, position, without).sparsity
            ours += time.perf_counter() - start
            count += found.numel()
            start = time.perf_counter()
            expected = plain_ablations(plain, corpus.tokens[number], row.outputs[0], position, without[:PLAIN_PER_TOKEN])
            theirs += time.perf_counter() - start
            plain_count += PLAIN_PER_TOKEN
            differences.extend(np.abs(found[:PLAIN_PER_TOKEN].numpy() - np.array(expected)).tolist())
    per_ours, per_theirs = ours / count, theirs / plain_count
    note = (
        f"{1000 * per_ours:.0f} ms an ablation ({count} of them, {ours:.0f} s) against {1000 * per_theirs:.0f} ms "
        f"({plain_count} of them, one a forward pass, interleaved)"
    )
    return [
        Row("1,000 ablations against the plain way", f"{per_theirs / per_ours:.1f}x", "6x", note),
        Row("largest difference of sparsity", f"{max(differences):.1e}", "1e-4", f"over {len(differences)} ablations"),
        *in_own_process(),
    ]


def plain_ablations(plain: torch.nn.Module, tokens: Tensor, spliced: Tensor, position: int, without: Tensor) -> list[float]:
    """Each ablation as a whole forward pass of the plain model; the unaltered pass is not counted in its favour."""
    reference, _ = run_with_residual(plain, LAYER, tokens, spliced)
    found = []
    for each in without:
        changed = spliced.clone()
        changed[position] = each
        logits, _ = run_with_residual(plain, LAYER, tokens, changed)
        found.append(measure(logits - reference, position, HORIZON))
    return found


def in_own_process() -> list[Row]:
    printed = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", "ablation"], capture_output=True, text=True, check=True
    ).stdout
    return [Row(**row) for row in json.loads(printed.splitlines()[-1])]
