"""Runs in SAEBench's environment: its own runner of an evaluation on given autoencoders and texts; prints JSON.

Arguments: a folder with ``job.json`` (evaluation, autoencoders in SAELens's format, the model's folder, settings),
``texts.json`` and ``data.safetensors``; and ``own`` or ``given``. Only what needs the hub is replaced: the name of the model
is known, and texts, words and tokens are those of the folder. With ``given``, so is what is random: texts of other classes,
prompts, and trained probes.
"""

import contextlib
import functools
import io
import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAXTYPING_DISABLE"] = "1"  # jaxtyping 0.3 refuses the shapes of SAEBench's own sparse probing

import peer_saebench_asking as asking
import torch
from safetensors.torch import load_file

FOLDER, DRAWS = Path(sys.argv[1]), sys.argv[2]
JOB = json.loads((FOLDER / "job.json").read_text())
TEXTS = json.loads((FOLDER / "texts.json").read_text())
DATA = load_file(FOLDER / "data.safetensors")
MODEL = "model-it"
"""A folder below the working folder, which SAEBench takes for the model's name; unlearning refuses one without "it"."""


class Kept:
    """A SAELens autoencoder that keeps a token's mean and scale.

    SAELens forgets them at the first decoding, and SAEBench's ablations decode twice. With ``units``, latents are in the
    activations' units.
    """

    def __init__(self, sae, units):
        self.sae, self.units = sae, units

    def __getattr__(self, name):
        return getattr(self.sae, name)

    def to(self, *args, **kwargs):
        self.sae.to(*args, **kwargs)
        return self

    def encode(self, x):
        code = self.sae.encode(x)
        self.mean, self.scale = self.sae.ln_mu, self.sae.ln_std
        return code * self.scale if self.units else code

    def decode(self, code):
        self.sae.ln_mu, self.sae.ln_std = self.mean, self.scale
        return self.sae.decode(code / self.scale.clamp_min(1e-30) if self.units else code)  # 0 where SAEBench masks a token


def autoencoders():
    from sae_lens import SAE

    found = []
    for name, folder in JOB["saes"].items():
        sae = SAE.load_from_disk(folder, device="cpu")
        sae.cfg.metadata.model_name = MODEL
        found.append((name, Kept(sae, DRAWS == "given" and JOB["evaluation"] in ("scr", "tpp", "absorption", "unlearning"))))
    return found


class Store:
    """As much of SAELens's activation store as the core evaluation uses: it hands out the rows in order."""

    def __init__(self, tokens):
        self.tokens, self.place, self.context_size, self.store_batch_size_prompts = tokens, 0, tokens.shape[1], 16

    def get_batch_tokens(self, rows):
        self.place += rows
        return self.tokens[self.place - rows : self.place]

    def reset_input_dataset(self):
        self.place = 0

    def shuffle_input_dataset(self, seed):
        pass


def core(saes):
    import sae_bench.evals.core.main as main

    main.ActivationsStore.from_sae = staticmethod(lambda *args, **kwargs: Store(DATA["tokens"]))
    main.multiple_evals(
        saes, JOB["batches"], JOB["variance_batches"], eval_batch_size_prompts=JOB["rows"],
        compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
        context_size=DATA["tokens"].shape[1], output_folder="out", dtype="float32", device="cpu",
    )  # fmt: skip
    return Path("out")


def given_texts(name, train_size, test_size, *rest):
    return tuple({each: list(texts) for each, texts in TEXTS[name][part].items()} for part in ("train", "test"))


def given_problem(activations, name, perform_scr=False):
    """The recorded texts of a class and of the others, in place of a random choice."""
    task = next(task for task, parts in TEXTS.items() if list(parts["train"]) == list(activations))
    every = torch.cat(list(activations.values()))
    part = "train" if every.shape[0] == sum(map(len, TEXTS[task]["train"].values())) else "test"
    rows = DATA[f"{task}.{name}.{part}.rows"]
    return every[rows], DATA[f"{task}.{name}.{part}.labels"].int()


def with_classes(probing, datasets, info):
    datasets.get_multi_label_train_test_data = given_texts
    info.chosen_classes_per_dataset.update({name: list(parts["train"]) for name, parts in TEXTS.items()})
    if DRAWS == "given":
        probing.prepare_probe_data = given_problem


def sparse_probing(saes):
    import sae_bench.evals.sparse_probing.main as main

    with_classes(main.probe_training, main.dataset_utils, main.dataset_info)
    config = main.SparseProbingEvalConfig(
        model_name=MODEL, dataset_names=list(TEXTS), random_seed=0, llm_batch_size=32, llm_dtype="float32",
        context_length=JOB["context"], k_values=JOB["k"],
    )  # fmt: skip
    main.run_eval(config, saes, "cpu", "out", artifacts_path="artifacts")
    return Path("out")


def concepts(saes, given_texts_of, **settings):
    """SCR and TPP, with our probes of a task where they are given."""
    import sae_bench.evals.scr_and_tpp.main as main

    main.dataset_creation.get_train_test_data = given_texts_of
    waiting = list(TEXTS)  # the first autoencoder trains the probes of all tasks, in this order

    def given_probes(activations, *args, **kwargs):
        task, found = waiting.pop(0), {}
        for number, name in enumerate(JOB["problems"] or activations):
            probe = main.probe_training.Probe(DATA[f"{task}.weight"].shape[1], torch.float32)
            probe.net.weight.data[0] = DATA[f"{task}.weight"][number]
            probe.net.bias.data[0] = DATA[f"{task}.bias"][number]
            found[name] = probe
        return found, {}

    if DRAWS == "given":
        main.probe_training.train_probe_on_activations = given_probes
    config = main.ScrAndTppEvalConfig(
        model_name=MODEL, random_seed=0, llm_batch_size=32, llm_dtype="float32", context_length=JOB["context"], **settings
    )
    main.run_eval(config, saes, "cpu", "out", artifacts_path="artifacts")
    return Path("out") / JOB["evaluation"]


def scr(saes):
    import sae_bench.evals.scr_and_tpp.main as main

    main.COLUMN2_VALS_LOOKUP["pairs"] = ("", "")

    def texts_of_pair(name, spurious, train_size, test_size, seed, pair, second):
        return given_texts(" / ".join(pair), train_size, test_size)

    pairs = {"pairs": [tuple(name.split(" / ")) for name in TEXTS]}
    return concepts(saes, texts_of_pair, perform_scr=True, dataset_names=["pairs"], column1_vals_lookup=pairs)


def tpp(saes):
    import sae_bench.evals.scr_and_tpp.main as main

    with_classes(main.probe_training, main.dataset_utils, main.dataset_info)
    main.COLUMN2_VALS_LOOKUP.update(dict.fromkeys(TEXTS, ("", "")))
    return concepts(saes, lambda name, *rest: given_texts(name, 0, 0), perform_scr=False, dataset_names=list(TEXTS))


def absorption(saes):
    import sae_bench.evals.absorption.common as common
    import sae_bench.evals.absorption.feature_absorption as feature_absorption
    import sae_bench.evals.absorption.k_sparse_probing as k_sparse
    import sae_bench.evals.absorption.main as main
    import sae_bench.evals.absorption.probing as probing
    from sae_bench.evals.absorption.prompting import SpellingPrompt

    words, bases = TEXTS["words"], TEXTS["prompts"]
    common.get_alpha_tokens = feature_absorption.get_alpha_tokens = lambda tokenizer: list(words)
    # words of several tokens make prompts of different lengths, which SAEBench refuses; padded on the left, they are right
    calculator = feature_absorption.FeatureAbsorptionCalculator
    calculator._validate_prompts_are_same_length = lambda self, prompts: None
    load = main.HookedTransformer.from_pretrained_no_processing

    def padded_left(*args, **kwargs):
        model = load(*args, **kwargs)
        model.tokenizer.padding_side = "left"
        if JOB["stop"]:  # its runner computes the layers above the hook too, and does not use them
            model.run_with_cache = functools.partial(model.run_with_cache, stop_at_layer=JOB["stop"])
        return model

    main.HookedTransformer.from_pretrained_no_processing = padded_left
    folders = {"experiment_dir": Path("k-sparse"), "probes_dir": Path("probes")}
    main.run_k_sparse_probing_experiment = functools.partial(main.run_k_sparse_probing_experiment, **folders)
    main.run_feature_absortion_experiment = functools.partial(
        main.run_feature_absortion_experiment, experiment_dir=Path("absorption"),
        sparse_probing_experiment_dir=Path("k-sparse"), probes_dir=Path("probes"),
    )  # fmt: skip
    if DRAWS == "given":
        prompts = [
            SpellingPrompt(base, f" {word.strip()[0].upper()}", word) for word, base in zip(words, bases, strict=True)
        ]
        split = JOB["train"]
        numbered = [(each, ord(each.answer.strip().lower()) - ord("a")) for each in prompts]
        common.create_dataset_probe_training = lambda *args, **kwargs: (numbered[:split], numbered[split:])
        by_word = {each.word: each for each in prompts}
        calculator._build_prompts = lambda self, wanted: [by_word[word] for word in wanted]
        waiting = list(JOB["saes"])

        def fitted(prefix, *args, **kwargs):
            probe = probing.LinearProbe(DATA[f"{prefix}.weight"].shape[1], 26)
            probe.fc.weight.data, probe.fc.bias.data = DATA[f"{prefix}.weight"].clone(), DATA[f"{prefix}.bias"].clone()
            return probe

        probing.train_multi_probe = functools.partial(fitted, "letters")
        k_sparse.train_multi_probe = lambda *args, **kwargs: fitted(waiting.pop(0))
    torch.manual_seed(0)
    least, letters = JOB.get("letters", (0.6, 20))
    config = main.AbsorptionEvalConfig(model_name=MODEL, random_seed=0, min_GT_probe_f1=least, min_feats_for_eval=letters)
    main.run_eval(config, saes, "cpu", "out")
    return Path("out")


def asked(evaluation):
    """An evaluation that asks the language model, as the others are called."""
    return lambda saes: evaluation(saes, MODEL, JOB, TEXTS, DATA, DRAWS == "given")


EVALUATIONS = {each.__name__: each for each in (core, sparse_probing, scr, tpp, absorption)} | {
    each.__name__: asked(each) for each in (asking.ravel, asking.unlearning, asking.autointerp)
}


def main():
    from transformer_lens import loading_from_pretrained

    torch.set_num_threads(JOB["threads"])
    scratch = FOLDER / f"scratch-{DRAWS}"
    (scratch / "out").mkdir(parents=True)
    (scratch / MODEL).symlink_to(JOB["model"])
    os.chdir(scratch)
    loading_from_pretrained.OFFICIAL_MODEL_NAMES.append(MODEL)
    import sae_bench.evals.absorption.main
    import sae_bench.evals.core.main
    import sae_bench.evals.scr_and_tpp.main  # noqa: F401
    import sae_bench.sae_bench_utils.general_utils as general_utils

    starts, path = [], general_utils.get_results_filepath

    def next_one(*args):  # every evaluation asks for it when it begins with an autoencoder
        starts.append(time.process_time())
        return path(*args)

    general_utils.get_results_filepath = next_one
    start, began = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        out = EVALUATIONS[JOB["evaluation"]](autoencoders())
    seconds, end = time.perf_counter() - start, time.process_time()
    processor = [stop - began for stop in (*starts[1:], end)]
    found = {}
    for name in JOB["saes"]:
        file = out / f"{name}_custom_sae_eval_results.json"
        found[name] = json.loads(file.read_text())["eval_result_metrics"] if file.exists() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"found": found, "seconds": seconds, "processor": processor, "peak": peak}))


if __name__ == "__main__":
    main()
