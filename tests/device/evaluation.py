"""Tokens a second of an evaluation on a random model of Gemma 2 2B's shape, against its forward passes alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import saebench
from saebench.lm import Cut, LanguageModel
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.device.sizes import Sizes

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "saelens_evals" / "model"


def run(sizes: Sizes) -> dict[str, Any]:
    """For each width and number of autoencoders: speed, share of the floor, peak memory; and eight against one."""
    model = random_model(sizes)
    corpus = random_corpus(sizes, model)
    cut = model.cut(f"blocks.{sizes.layer}.hook_resid_post")
    rows = [measured(sizes, model, cut, corpus, n, count) for n in sizes.sae_latents for count in sizes.together]
    ratios = {}
    for n in sizes.sae_latents:
        one, *others = [row for row in rows if row["latents"] == n]
        ratios[str(n)] = {f"{row['saes']}_against_one": row["wall_seconds"] / one["wall_seconds"] for row in others}
    return {"model_parameters": model.n_parameters, "layer": sizes.layer, "rows": rows, "ratios": ratios}


def random_model(sizes: Sizes) -> LanguageModel:
    """The shape of Gemma 2 2B is the default of its configuration."""
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(**sizes.model)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, sizes.dtype))
    try:
        with torch.device(sizes.device):
            model = Gemma2ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    model.requires_grad_(False)
    return LanguageModel(model, AutoTokenizer.from_pretrained(TOKENIZER), folder)


def random_corpus(sizes: Sizes, model: LanguageModel) -> TokenCorpus:
    """Tokens that the tokenizer knows, which are few; the model's logits are over all of its vocabulary."""
    rows = torch.randint(3, 200, sizes.text, generator=torch.Generator().manual_seed(1))
    rows[:, 0] = 1
    return make_corpus(rows, model.tokenizer, name="random tokens", bos="row")


def random_sae(sizes: Sizes, d: int, n: int, seed: int) -> SparseAutoencoder:
    generator = torch.Generator(sizes.device).manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, device=sizes.device), dim=1)
    activation = TopK(sizes.sae_k)
    hook = f"blocks.{sizes.layer}.hook_resid_post"
    info = CheckpointInfo(f"random-{seed}", "saebench", "topk", d, d, n, activation.describe(), hook_in=hook)
    zeros = torch.zeros(n, device=sizes.device), torch.zeros(d, device=sizes.device)
    return SparseAutoencoder(directions.T.contiguous(), directions, *zeros, activation, info)


def measured(sizes: Sizes, model: LanguageModel, cut: Cut, corpus: TokenCorpus, n: int, count: int) -> dict[str, Any]:
    saes = [random_sae(sizes, cut.d_in, n, seed) for seed in range(count)]

    def evaluate() -> None:
        for card in saebench.evaluate(saes, model=model, corpus=corpus, batch=sizes.batch, progress=False):
            assert not card.result.failures, card.result.failures

    evaluate()  # kernels are compiled in the first call
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wall = seconds(evaluate)
    floor = seconds(lambda: forward_passes(cut, corpus, sizes.batch, count))
    peak = torch.cuda.max_memory_allocated() / 2**30 if sizes.device == "cuda" else None
    return {
        "latents": n, "saes": count, "tokens": corpus.tokens.numel(), "wall_seconds": wall, "floor_seconds": floor,
        "tokens_per_second": corpus.tokens.numel() / wall, "times_the_floor": wall / floor, "peak_memory_gib": peak,
    }  # fmt: skip


@torch.no_grad()
def forward_passes(cut: Cut, corpus: TokenCorpus, batch: int, count: int) -> None:
    """The floor: the layers below the hook once, those above it for the clean model and for each autoencoder."""
    for tokens in corpus.tokens.split(batch):
        prefix = cut.prefix(tokens)
        for _ in range(1 + count):
            cut.suffix(prefix.outputs, prefix)


def seconds(work: Callable[[], None]) -> float:
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
