"""Evaluation: tokens per second against SAELens, eight autoencoders against one, memory at large widths."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file

import saebench
from saebench.lm import LanguageModel
from saebench.lm.embedded import embedded_model_folder
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, load_corpus
from tests.benchmarks.table import Row, run_peer

TITLE = "Evaluation (SmolLM2-135M, core and downstream)"
WIDTH, LATENTS, K, CONTEXT, TOKENS = 576, 8192, 32, 128, 4096
HOOK = "blocks.15.hook_resid_post"
REPEATS = 3


def random_sae(seed: int = 0, n: int = LATENTS, d: int = WIDTH, hook: str = HOOK) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    info = CheckpointInfo(f"random-{seed}", "saebench", "topk", d, d, n, {}, hook_in=hook, model="smollm2", context=CONTEXT)
    return SparseAutoencoder(directions.T, directions, torch.zeros(n), torch.zeros(d), TopK(K), info)


def seconds(saes: list[SparseAutoencoder], model: LanguageModel, corpus: TokenCorpus, hook: str) -> float:
    start = time.perf_counter()
    for card in saebench.evaluate(saes, model=model, corpus=corpus, hook=hook, progress=False):
        assert not card.result.failures
    return time.perf_counter() - start


def run() -> list[Row]:
    model = LanguageModel.load("smollm2", dtype="float32")
    corpus = load_corpus("python-docs", model.tokenizer, context=CONTEXT, tokens=TOKENS, bos="row", exclude=False)
    model.logits(corpus.tokens[:1])
    rows = [*against_saelens(model, corpus), *eight_against_one(model, corpus), *bfloat16_against_float32(model, corpus)]
    return [*rows, *in_own_process("wide-64"), *in_own_process("wide-128"), *in_own_process("million")]


def against_saelens(model: LanguageModel, corpus: TokenCorpus) -> list[Row]:
    """The two in turn, three times: the median of the ratios, since a shared machine's speed drifts."""
    tokens = corpus.tokens.numel()
    ours, theirs, version = [], [], ""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_for_saelens(random_sae(), folder / "sae")
        save_file({"tokens": corpus.tokens}, folder / "tokens.safetensors")
        arguments = (str(embedded_model_folder()), str(folder / "sae"), str(folder / "tokens.safetensors"), "float32")
        for _ in range(REPEATS):
            ours.append(tokens / seconds([random_sae()], model, corpus, HOOK))
            printed = run_peer("saelens", "peer_saelens_evals.py", *arguments)
            if printed is None:
                return [
                    Row(
                        "one SAE, float32",
                        f"{ours[0]:.0f} tokens/s",
                        "3x",
                        "SAELens's environment is absent: not compared",
                    )
                ]
            found = json.loads(printed.splitlines()[-1])
            theirs.append(tokens / found["seconds"])
            version = found["version"]
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    speeds = f"{statistics.median(ours):.0f} tokens/s against {statistics.median(theirs):.0f}"
    measured = f"{statistics.median(ratios):.2f}x SAELens (of {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    return [Row("one SAE, float32", measured, "3x", f"{speeds} of SAELens {version}, same model, tokens and autoencoder")]


def save_for_saelens(sae: SparseAutoencoder, folder: Path) -> None:
    folder.mkdir()
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec.clone(), "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    config = {
        "d_in": sae.d_in, "d_sae": sae.n_latents, "k": K, "dtype": "float32", "device": "cpu", "architecture": "topk",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": HOOK, "context_size": CONTEXT, "model_name": "smollm2"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))


def eight_against_one(model: LanguageModel, corpus: TokenCorpus) -> list[Row]:
    """One and eight in turn, with their matrix products alone: medians of three."""
    rows = []
    for hook in (HOOK, "blocks.22.hook_resid_post"):
        layer = int(hook.split(".")[1])
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        for _ in range(REPEATS):
            for count in (1, 8):
                saes = [random_sae(seed, hook=hook) for seed in range(count)]
                found[count, "all"].append(seconds(saes, model, corpus, hook))
                found[count, "products"].append(products(model, layer, count, corpus.tokens.numel()))
        ratios = sorted(eight / one for one, eight in zip(found[1, "all"], found[8, "all"], strict=True))
        times = {key: statistics.median(each) for key, each in found.items()}
        note = "; ".join(
            f"{name}: {times[count, 'all']:.1f} s, matrix products alone {times[count, 'products']:.1f} s"
            for count, name in ((1, "one"), (8, "eight"))
        )
        floor = times[8, "products"] / times[1, "products"]
        measured = f"{statistics.median(ratios):.2f}x the time of one (of {', '.join(f'{each:.2f}' for each in ratios)})"
        rows.append(Row(f"eight SAEs together, {hook}", measured, "3.2x", f"{note}: {floor:.2f}x"))
    return rows


def bfloat16_against_float32(model: LanguageModel, corpus: TokenCorpus) -> list[Row]:
    """Speed with the language model in bfloat16, in turn with float32: medians of three."""
    if not (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return [Row("bfloat16", "not measured", "", "this processor has no units for it")]
    short = LanguageModel.load("smollm2", dtype="bfloat16")
    rows = []
    for count in (1, 8):
        saes = [random_sae(seed) for seed in range(count)]
        times = [(seconds(saes, model, corpus, HOOK), seconds(saes, short, corpus, HOOK)) for _ in range(REPEATS)]
        ratios = sorted(full / half for full, half in times)
        rates = ", ".join(f"{corpus.tokens.numel() / statistics.median(each):.0f}" for each in zip(*times, strict=True))
        measured = f"{statistics.median(ratios):.2f}x float32 (of {', '.join(f'{each:.2f}' for each in ratios)})"
        rows.append(Row(f"{count} SAEs, bfloat16", measured, "", f"tokens/s in float32 and bfloat16: {rates}"))
    return rows


@torch.no_grad()
def products(model: LanguageModel, layer: int, saes: int, tokens: int) -> float:
    """Seconds of the matrix products of an evaluation alone: weights with rows of the batch's size, in memory kept ready.

    The layers up to ``layer`` once, those above and the unembedding for the clean run and each autoencoder, and encoders.
    """
    block = model.bridge.original_model.model.layers[0]
    kinds = [each.weight for each in block.modules() if isinstance(each, torch.nn.Linear)]
    batch, n_layers, runs = 1024, model.n_layers, 1 + saes
    passes = (layer + 1) + runs * (n_layers - layer - 1)
    unembedding = model.bridge.unembed.original_component.weight
    times = [(weight, passes) for weight in kinds] + [(torch.randn(LATENTS, WIDTH), saes)]
    times += [(part, runs) for part in unembedding.split(1024)]
    out = torch.empty(batch * LATENTS)
    inputs = {width: torch.randn(batch, width) for width in {weight.shape[1] for weight, _ in times}}
    start = time.perf_counter()
    for weight, count in times:
        into = out[: batch * weight.shape[0]].view(batch, -1)
        for _ in range(count):
            torch.mm(inputs[weight.shape[1]], weight.T, out=into)
    return (time.perf_counter() - start) * tokens / batch


def in_own_process(name: str) -> list[Row]:
    """Memory is measured in a process of its own: its largest resident set."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", name]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [Row(**row) for row in json.loads(printed.splitlines()[-1])]
