"""Runs in sae-bench's environment: its own functions on arrays that the bench of this repository wrote.

Arguments: folder with `arrays.safetensors`, `facts.json` and a model. Writes `peer.safetensors` and `peer.json` there.
"""

import json
import random
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.absorption.k_sparse_probing import train_k_sparse_probes
from sae_bench.evals.absorption.probing import train_linear_probe_for_task
from sae_bench.evals.ravel.mdbm import MDBM, train_mdbm
from sae_bench.evals.ravel.validation import evaluate_completion
from sae_bench.evals.unlearning.utils.feature_activation import get_top_features
from sae_bench.evals.unlearning.utils.intervention import anthropic_clamp_resid_SAE_features
from sae_bench.sae_bench_utils import activation_collection
from sae_bench.sae_bench_utils.indexing_utils import get_k_largest_indices
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score

HOOK = "blocks.0.hook_resid_post"


class Dense:
    """As much of an SAELens TopK autoencoder as these functions use.

    `normed`: it reads activations with layer norm. Its latents are then in the model's units where `model_units`, so that
    decoder rows times latents are parts of the activation, as the calculation of absorption takes for granted.
    """

    def __init__(self, arrays, prefix, k, normed=False, model_units=False):
        self.normed, self.model_units = normed, model_units
        self.W_enc, self.W_dec = arrays[f"{prefix}.W_enc"], arrays[f"{prefix}.W_dec"]
        self.b_enc, self.b_dec, self.b_pre = (arrays[f"{prefix}.{name}"] for name in ("b_enc", "b_dec", "b_pre"))
        self.k, self.device, self.dtype = k, torch.device("cpu"), torch.float32
        self.cfg = SimpleNamespace(d_sae=self.W_enc.shape[1], hook_layer=1)

    def encode(self, x):
        size = 1.0
        if self.normed:
            x = x - x.mean(dim=-1, keepdim=True)
            size = x.std(dim=-1, keepdim=True)
            x = x / (size + 1e-5)
        pre = ((x - self.b_pre) @ self.W_enc + self.b_enc).relu()
        top = pre.topk(self.k, dim=-1)
        values = top.values * size if self.model_units else top.values
        return torch.zeros_like(pre).scatter(-1, top.indices, values)

    def decode(self, z):
        return z @ self.W_dec + self.b_dec


class Words:
    """A language model that gives each word of a list its activation, in order."""

    def __init__(self, activations):
        self.activations, self.place = activations, 0

    def to_tokens(self, text):
        return torch.zeros(1, 7)

    def run_with_cache(self, prompts, names_filter):
        some = self.activations[self.place : self.place + len(prompts)]
        self.place += len(prompts)
        return None, {HOOK: some.unsqueeze(1).expand(-1, 7, -1)}


def absorption(arrays, sae, main_latents, weight, scored):
    """`(fraction, full)` of each scored word, by letter."""
    fractions, fulls = {}, {}
    x, letters = arrays["words.activations"], arrays["words.letters"]
    for letter, main in main_latents.items():
        number = "abcdefghijklmnopqrstuvwxyz".index(letter)
        mine = x[(letters == number) & scored]
        calculator = FeatureAbsorptionCalculator(
            model=Words(mine),
            icl_word_list=["ab", "cd", "ef"],
            max_icl_examples=1,
            word_token_pos=-6,
            absorption_fraction_probe_cos_sim_threshold=0.1,
        )
        found = calculator.calculate_absorption(
            sae, [f"x{index}" for index in range(len(mine))], weight[:, number], main, 0, False
        )
        fractions[letter] = [each.absorption_fraction for each in found.word_results]
        fulls[letter] = [each.is_full_absorption for each in found.word_results]
    return fractions, fulls


def flat(by_letter, dtype):
    return torch.tensor([value for each in by_letter.values() for value in each], dtype=dtype)


def means(by_letter):
    return [sum(each) / len(each) if each else None for each in by_letter.values()]


def letter_probes(arrays, facts):
    """The probes that its protocol fits to the activations: F1 on held-out words, weights, and words that are right."""
    x, letters, train = arrays["words.activations"], arrays["words.letters"], facts["train"]
    frames = [{"answer_class": SimpleNamespace(values=part.numpy())} for part in (letters[:train], letters[train:])]
    probe, _ = train_linear_probe_for_task(
        frames[0], frames[1], torch.device("cpu"), x[:train].numpy(), x[train:].numpy(), batch_size=64
    )
    with torch.no_grad():
        scores = probe(x)
    right = (scores.gather(1, letters.unsqueeze(1)).squeeze(1) > 0) & (torch.arange(len(x)) >= train)
    held_out = letters[train:]
    f1 = [float(f1_score((held_out == n).numpy(), (scores[train:, n] > 0).numpy())) for n in range(26)]
    return f1, probe.weights.detach().T, right


def main_latents(arrays, facts, sae):
    """Main latents and the F1 of the probe on them, by letter."""
    x, letters, train = arrays["words.activations"], arrays["words.letters"], facts["train"]
    labels = [("x", int(letter)) for letter in letters[:train]]
    probes = train_k_sparse_probes(sae, labels, x[:train], list(range(1, 11)), precalc_sae_acts=True)
    code = sae.encode(x[train:])
    found = {}
    for number in range(26):
        truth = (letters[train:] == number).numpy()
        best, kept = -100.0, []
        for k in range(1, 11):
            probe = probes[k][number]
            f1 = float(f1_score(truth, (probe(code) > 0).numpy()))
            if f1 > best + 0.03:
                best, kept = f1, probe.feature_ids.tolist()
            else:
                break
        found["abcdefghijklmnopqrstuvwxyz"[number]] = {"latents": kept, "f1": best}
    return found


class Layer:
    """A block of a Llama, whose output is a tensor in transformers 5; its hooks expect a tuple."""

    def __init__(self, block):
        self.block = block

    def register_forward_hook(self, hook):
        return self.block.register_forward_hook(lambda module, inputs, output: hook(module, inputs, (output,))[0])


def ravel(arrays, facts, folder, sae):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
    activation_collection.get_module = lambda model, layer: Layer(model.model.layers[layer])
    config = SimpleNamespace(llm_batch_size=facts["batch"], num_epochs=2, learning_rate=facts["learning_rate"])
    loader = []
    for rows in torch.arange(arrays["pairs.base"].numel()).split(facts["batch"]):
        base, source = arrays["pairs.base"][rows], arrays["pairs.source"][rows]
        ids = [{"input_ids": arrays["prompts"][each], "attention_mask": None} for each in (base, source)]
        places = [arrays["places"][each] for each in (base, source)]
        loader.append((*ids, *places, None, arrays["pairs.target"][rows], None, None))
    tokenizer = SimpleNamespace(decode=str)
    trained = train_mdbm(model, tokenizer, config, sae, loader, [], verbose=False)
    swap = MDBM(model, tokenizer, config, sae)
    outputs = {}
    for training in (True, False):
        swap.binary_mask.data = arrays["mask"]
        hook = swap.create_intervention_hook(arrays["swap.source"], torch.zeros(len(arrays["swap.base"]), dtype=torch.long),
                                             training_mode=training)  # fmt: skip
        base = arrays["swap.base"].unsqueeze(1).repeat(1, 2, 1)
        outputs[f"swap.{training}"] = hook(None, None, (base,))[0][:, 0].detach()
    return (trained.binary_mask > 0).detach(), outputs


def main():
    folder = Path(sys.argv[1])
    arrays, facts = load_file(folder / "arrays.safetensors"), json.loads((folder / "facts.json").read_text())
    torch.manual_seed(0)
    random.seed(0)
    sae, small = Dense(arrays, "sae", facts["k"], facts["normed"]), Dense(arrays, "small", facts["small_k"])
    written = {}
    in_model_units = Dense(arrays, "sae", facts["k"], facts["normed"], model_units=True)
    given = absorption(arrays, in_model_units, facts["main_latents"], arrays["probe.weight"], arrays["words.scored"])
    written["fraction"], written["full"] = flat(given[0], torch.float64), flat(given[1], torch.bool)
    f1, weight, right = letter_probes(arrays, facts)
    mains = main_latents(arrays, facts, sae)
    own = absorption(arrays, in_model_units, {letter: each["latents"] for letter, each in mains.items()}, weight, right)
    chosen, swaps = ravel(arrays, facts, folder, small)
    written |= {"chosen": chosen, **swaps}
    written["clamped"] = anthropic_clamp_resid_SAE_features(
        arrays["resid"].clone(), None, small, facts["clamped_latents"], facts["clamp"]
    )
    written["largest"] = get_k_largest_indices(arrays["dense"], 12, 10, True)
    top = [get_top_features(arrays["forget"].numpy(), arrays["retain"].numpy(), each) for each in (0.001, 0.01)]
    record = {
        "version": version("sae-bench"),
        "probe_f1": f1,
        "main_latents": mains,
        "own": [means(each) for each in own],
        "top_latents": [np.asarray(each).tolist() for each in top],
        "answers": [bool(evaluate_completion(*case)) for case in facts["answers"]],
    }
    save_file({name: each.contiguous() for name, each in written.items()}, folder / "peer.safetensors")
    (folder / "peer.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
