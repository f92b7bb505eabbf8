"""Peak memory in a process of its own: `python -m tests.benchmarks.memory NAME`, with a name below; prints JSON rows."""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

import saebench
from saebench import checkpoints
from saebench.lm import LanguageModel
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import make_corpus

FIXTURES = Path(__file__).parents[1] / "fixtures"
GIB = 2**30


def peak() -> float:
    """Largest resident set of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def wide(rows: int) -> list[dict[str, str]]:
    """n = 131,072, d = 768, rows of 128 tokens: GPT-2's width and vocabulary, two of its layers."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=768, n_head=12)
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "saelens_evals" / "model")
    model = LanguageModel(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), tokenizer, "gpt2-shaped")
    directions = torch.nn.functional.normalize(torch.randn(131_072, 768), dim=1)
    info = CheckpointInfo("random", "saebench", "topk", 768, 768, 131_072, {})
    sae = SparseAutoencoder(directions.T, directions, torch.zeros(131_072), torch.zeros(768), TopK(32), info)
    tokens = torch.randint(3, 50_000, (rows, 128), generator=torch.Generator().manual_seed(0))
    corpus = make_corpus(tokens, tokenizer, name="random", exclude=False)
    card = saebench.evaluate(sae, model=model, hook="blocks.0.hook_resid_post", corpus=corpus, progress=False)
    assert not card.result.failures
    weights = (sum(p.numel() for p in model.bridge.original_model.parameters()) + directions.numel()) * 4 / GIB
    return [
        {
            "what": f"peak memory, n = 131,072, d = 768, {rows} x 128 tokens",
            "bar": "weights + 1.5 GB, whatever the number of tokens",
            "measured": f"weights + {peak() - weights:.2f} GiB",
            "note": f"largest resident set {peak():.2f} GiB with libraries and set-up; weights {weights:.2f} GiB",
        }
    ]


def million() -> list[dict[str, str]]:
    """A million latents, d = 768, memory-mapped float32 weights of 6 GB: 4,096 tokens are encoded."""
    n, d = 1_000_000, 768
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAEBENCH_SCRATCH")) as scratch:
        folder = Path(scratch)
        _write_random(folder / "sae.safetensors", n, d)
        info = {
            "architecture": "topk",
            "d_in": d,
            "d_out": d,
            "n_latents": n,
            "activation": {"kind": "TopK", "name": "topk", "k": 32},
        }
        (folder / "sae.json").write_text(json.dumps({"format_version": 1, "sae": info, "scaling": {}, "training": {}}))
        sae = checkpoints.load(folder)
        loaded = peak()
        x = torch.randn(4096, d, generator=torch.Generator().manual_seed(1))
        start = time.perf_counter()
        latents = sae.encode(x)
        seconds = time.perf_counter() - start
        assert latents.values.shape == (4096, 32)
        note = f"encoding took {seconds:.0f} s; {loaded:.2f} GiB after loading, hashing and checking the weights"
    return [
        {
            "what": "peak resident memory, a million latents, 4,096 tokens",
            "bar": "8 GB",
            "measured": f"{peak():.2f} GiB",
            "note": note,
        }
    ]


def ablation() -> list[dict[str, str]]:
    """Ablations of one token's latents at a time, from the embedded model on."""
    from saebench.evaluators.splicing.interventions import Interventions, SplicedRow, sample_tokens
    from tests.benchmarks.bench_ablation import CONTEXT, HORIZON, LATENTS, small_corpus
    from tests.benchmarks.bench_evaluate import HOOK, random_sae

    sae, model = random_sae(), LanguageModel.load("smollm2", "float32")
    corpus, cut = small_corpus(model), model.cut(HOOK)
    cut.prefix(torch.zeros(1, CONTEXT, dtype=torch.long))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = peak_since_reset()
    interventions = Interventions(cut, HORIZON, batch=48)
    for number, positions in sample_tokens(corpus, 6, 2, HORIZON, seed=0).items():
        row = SplicedRow.make(sae, cut, corpus.tokens[number], corpus.excluded[number])
        passed = interventions.start(row.outputs, row.prefix)
        for position in positions:
            interventions.effects(passed, position, row.without_each(sae, position, LATENTS, torch.Generator())[1])
    return [
        {
            "what": "peak memory of ablations beyond the model",
            "bar": "1 GB",
            "measured": f"{peak_since_reset() - before:.2f} GiB",
            "note": f"resident set of {before:.2f} GiB with model, autoencoder and libraries loaded",
        }
    ]


def peak_since_reset() -> float:
    """Largest resident set since the peak was last reset, in GiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / GIB


def _write_random(path: Path, n: int, d: int) -> None:
    """A safetensors file of random weights, written in pieces so that this process never holds it."""
    shapes = {"encoder": [n, d], "W_dec": [n, d], "b_enc": [n], "b_dec": [d]}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            rows = shape[0]
            for start in range(0, rows, 50_000):
                size = [min(50_000, rows - start), *shape[1:]]
                stream.write((torch.randn(size, generator=generator) / d**0.5).numpy().tobytes())


if __name__ == "__main__":
    measure = {"wide-64": lambda: wide(64), "wide-128": lambda: wide(128), "million": million, "ablation": ablation}
    print(json.dumps(measure[sys.argv[1]]()))
