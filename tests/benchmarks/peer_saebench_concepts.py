"""Runs in SAEBench's environment: its own functions for SCR and TPP on given activations; prints JSON.

Arguments: a folder with ``data.safetensors`` (activations ``[texts, tokens, d]``, 0 where there is no token; splits; probes)
and ``sae.safetensors``. Only the random choice of texts is replaced, by the given splits.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import sae_bench.evals.scr_and_tpp.main as concepts
import sae_bench.evals.sparse_probing.probe_training as probing
import torch
from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations
from safetensors.torch import load_file

NS = (2, 5, 10, 20, 50, 100, 500)


class Sae:
    """A TopK autoencoder as SAEBench's functions use one."""

    def __init__(self, tensors):
        self.k, self.tensors, self.dtype, self.device = int(tensors["k"]), tensors, torch.float32, "cpu"
        self.W_dec = tensors["W_dec"]

    def encode(self, x):
        centred = x - self.tensors["b_pre"] if "b_pre" in self.tensors else x
        found = (centred @ self.tensors["W_enc"] + self.tensors["b_enc"]).relu().topk(self.k, dim=-1)
        return torch.zeros(*x.shape[:-1], self.W_dec.shape[0]).scatter_(-1, found.indices, found.values)

    def decode(self, z):
        return z @ self.W_dec + self.tensors["b_dec"]


def given_splits(data, names):
    """In place of the random choice: the recorded rows of a class, of the training or the test texts."""

    def prepare(activations, name, perform_scr=False):
        every = torch.cat([activations["train"], activations["test"]]) if "train" in activations else activations["all"]
        part = activations["part"]
        rows = data[f"{name}.{part}.rows"]
        return every[rows], data[f"{name}.{part}.labels"].int()

    return prepare


def main():
    folder = sys.argv[1]
    torch.set_grad_enabled(False)
    data, sae = load_file(f"{folder}/data.safetensors"), Sae(load_file(f"{folder}/sae.safetensors"))
    problems = json.loads(Path(folder, "problems.json").read_text())
    acts = data["activations"]
    found, seconds = {}, {}
    for kind, names in problems.items():
        prepare = given_splits(data, names)
        probing.prepare_probe_data = prepare
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            found[kind] = {"tpp": tpp, "scr": scr}[kind](acts, sae, data, names, prepare)
        seconds[kind] = time.perf_counter() - start
    print(json.dumps({"found": found, "seconds": seconds}))


def probes_of(data, kind, names):
    found = {}
    for number, name in enumerate(names):
        probe = probing.Probe(data[f"{kind}.weight"].shape[1], torch.float32)
        probe.net.weight.data[0] = data[f"{kind}.weight"][number]
        probe.net.bias.data[0] = data[f"{kind}.bias"][number]
        found[name] = probe
    return found


def accuracy(probe, acts, data, name):
    means = create_meaned_model_activations({"x": acts})["x"] if acts.ndim == 3 else acts
    rows, labels = data[f"{name}.test.rows"], data[f"{name}.test.labels"].int()
    return probing.test_probe_gpu(means[rows], labels, 500, probe)


def ablations(acts, sae, data, probes, names, scr_):
    found = {}
    for name in names:
        effects = concepts.get_effects_per_class_precomputed_acts(
            sae, probes[name], name, {"all": acts, "part": "train"}, scr_, 125
        )
        for n in NS:
            chosen = concepts.select_top_n_features(effects, n, name)
            found[name, n] = concepts.ablated_precomputed_activations(acts, sae, chosen, 125)
    return found


def tpp(acts, sae, data, names, prepare):
    probes = probes_of(data, "tpp", names)
    clean = {name: accuracy(probes[name], acts, data, name) for name in names}
    changed = ablations(acts, sae, data, probes, names, False)
    by_class = {
        name: {n: {each: accuracy(probes[each], changed[name, n], data, each) for each in names} for n in NS}
        for name in names
    }
    return concepts.create_tpp_plotting_dict(by_class, clean)[0]


def scr(acts, sae, data, names, prepare):
    theirs = {"first": "professor / nurse", "second": "male / female", "biased": "male_professor / female_nurse"}
    probes = probes_of(data, "scr", names)
    clean = {theirs[name]: accuracy(probes[name], acts, data, name) for name in ("first", "second")}
    on = {name: f"{theirs['biased']} probe on {theirs[name]} data" for name in ("first", "second")}
    for name, key in on.items():
        clean[key] = accuracy(probes["biased"], acts, data, name)
    changed = ablations(acts, sae, data, probes, ("first", "second"), True)
    by_class = {
        theirs[name]: {
            n: {key: accuracy(probes["biased"], changed[name, n], data, other) for other, key in on.items()} for n in NS
        }
        for name in ("first", "second")
    }
    return concepts.get_scr_plotting_dict(by_class, clean)


if __name__ == "__main__":
    main()
