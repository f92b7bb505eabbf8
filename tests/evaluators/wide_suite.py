"""The suite's evaluators on 65,536 latents and 100,000 tokens, in a process of its own; prints bytes by step as JSON.

Argument: an empty folder. A dense array of tokens by latents would have 26 GB. The language model is the tests' tiny one, so
that the autoencoder's code is what needs memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

import saebench
from saebench.evaluators.absorption import _candidates
from saebench.evaluators.first_letter.protocol import read_first_letter_protocol
from saebench.evaluators.forgetting.latents import active_share, clamp_change
from saebench.lm import LanguageModel
from saebench.probing.values import Activations
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import make_corpus

FIXTURES = Path(__file__).parents[1] / "fixtures"
LATENTS, TOKENS, WIDTH = 65_536, 100_000, 32
CLASSES, TEXTS, WORDS = 4, 200, 130
"""Sections of news, texts of each, words of each; 127 of them and a BOS count: 101,600 words."""


def peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_news(folder: Path) -> None:
    draw = random.Random(0)
    (folder / "ag_news").mkdir()
    rows = [
        {"text": " ".join(f"w{3 + (draw.randrange(40) + 40 * label) % 190}" for _ in range(WORDS)), "label": label}
        for label in range(CLASSES)
        for _ in range(TEXTS)
    ]
    (folder / "ag_news" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["SAEBENCH_CACHE"] = str(folder / "cache")
    write_news(folder)
    generator = torch.Generator().manual_seed(0)
    model = LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"))
    directions = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=generator), dim=1)
    hook = "blocks.1.hook_resid_post"
    info = CheckpointInfo("random", "saebench", "topk", WIDTH, WIDTH, LATENTS, {}, hook_in=hook, hook_out=hook)
    sae = SparseAutoencoder(directions.T, directions, torch.zeros(LATENTS), torch.zeros(WIDTH), TopK(32), info)

    def evaluate(name: str, tokens: int, **options: object) -> None:
        rows = torch.randint(3, 200, (tokens // 128, 128), generator=generator)
        corpus = make_corpus(rows, model.tokenizer, name="random", exclude=False)
        card = saebench.evaluate(
            sae, model=model, hook=hook, corpus=corpus, evaluators=[name], data_dir=folder, progress=False,
            options={name: options},
        )  # fmt: skip
        assert not card.result.failures, card.result.failures

    def words() -> None:
        code = Activations(sae, "last").encode(torch.randn(TOKENS, WIDTH, generator=generator))
        letters = torch.randint(0, 26, (TOKENS,), generator=generator)
        protocol = read_first_letter_protocol()
        short = protocol.model_copy(update={"selection": protocol.selection.model_copy(update={"epochs": 1})})
        assert _candidates(code, letters, short, 0)[0].shape == (26, protocol.k_sparse.most)

    def forgetting() -> None:
        x = torch.randn(TOKENS, WIDTH, generator=generator)
        code = sae.encode(x)
        share = active_share(sae, x[:4096].split(2048))
        assert clamp_change(sae, code, share[code.indices] > 0.0005, 100.0).shape == (TOKENS, WIDTH)

    evaluate("core", 1024)  # loads what is loaded once
    found = {"start": peak()}
    few = {"tasks": "ag_news", "train": 140, "test": 60}
    for name, run in {
        "core": lambda: evaluate("core", TOKENS + 96),
        "sparse_probing": lambda: evaluate("sparse_probing", 1024, **few),
        "tpp": lambda: evaluate("tpp", 1024, tasks="ag_news", train=280, test=120),
        "absorption": words,
        "unlearning": forgetting,
    }.items():
        run()
        found[name] = peak() - found["start"]
    if "dense" in sys.argv:  # shows that the measurement sees what it must not see
        torch.ones(TOKENS // 10, LATENTS)
        found["dense"] = peak() - found["start"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
