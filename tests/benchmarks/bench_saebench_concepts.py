"""scr and tpp against SAEBench 0.6: its functions and ours on the same activations, splits and probes.

``SAEBENCH_SAES`` names autoencoders (with commas), ``SAEBENCH_AG_NEWS`` a file of AG News in JSON lines. Activations are
normalised token by token beforehand, because SAEBench's functions would not undo an autoencoder's scaling when they ablate.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench import checkpoints
from saebench.evaluators.concepts.base import read_concept_protocol
from saebench.evaluators.concepts.effects import Concepts, together
from saebench.evaluators.concepts.scr import SpuriousCorrelationRemoval, _splits
from saebench.evaluators.concepts.tpp import TargetedProbePerturbation
from saebench.lm import LanguageModel
from saebench.probing.activations import TextActivations, run_texts
from saebench.probing.class_texts import Unit
from saebench.probing.linear import Dense, Fitted, fit_linear
from saebench.probing.pooled import pooled_latents
from saebench.probing.problems import Problem, one_against_rest
from saebench.probing.protocol import TextLimits
from saebench.probing.values import pool
from saebench.sae import InputScaling, SparseAutoencoder
from saebench.tasks.classes import Cell
from tests.benchmarks.table import Row, run_peer

TITLE = "scr and tpp by SAEBench 0.6's functions and by ours (AG News, SmolLM2-135M, layer 15)"
SECTIONS = {0: "world", 1: "sports", 2: "business", 3: "sci_tech"}
TRAIN, TEST = int(os.environ.get("SAEBENCH_TRAIN", 120)), int(os.environ.get("SAEBENCH_TEST", 60))
"""Texts of a class."""
TOKENS = 24
PAIR, SECOND = ("business", "sports"), ("digit", "none")
"""The pair of sections, and whether a text has a digit."""


def texts_of(path: Path) -> tuple[list[str], dict[str, Problem], dict[str, Problem]]:
    """Texts, the problems of a section against the others, and those of spurious correlation removal."""
    generator = torch.Generator().manual_seed(0)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_section = {name: [row["text"] for row in rows if row["label"] == label] for label, name in SECTIONS.items()}
    texts = [text for name in by_section for text in by_section[name][:TRAIN]]
    texts += [text for name in by_section for text in by_section[name][TRAIN : TRAIN + TEST]]
    sizes = [dict.fromkeys(by_section, size) for size in (TRAIN, TEST)]
    classes = {
        name: Problem(one_against_rest(sizes[0], 0, name, generator), one_against_rest(sizes[1], 4 * TRAIN, name, generator))
        for name in by_section
    }
    cells: dict[Cell, list[str]] = {}
    for name in PAIR:
        for text in by_section[name]:
            cells.setdefault(Cell(name, SECOND[not any(map(str.isdigit, text[:100]))]), []).append(text)
    splits, taken = [], dict.fromkeys(cells, 0)
    for size in (TRAIN // 2, TEST // 2):
        some = {}
        for cell, its in sorted(cells.items()):
            count = size * (2 if cell in (Cell(PAIR[0], SECOND[0]), Cell(PAIR[1], SECOND[1])) else 1)
            some[cell] = its[taken[cell] : taken[cell] + count]
            taken[cell] += count
        splits.append(_splits(some, PAIR, SECOND, len(texts), generator))
        texts += [text for its in some.values() for text in its]
    return texts, classes, {name: Problem(splits[0][name], splits[1][name]) for name in splits[0]}


def activations(texts: list[str], hook: str) -> TextActivations:
    """Normalised activations; a constant makes sure that no token's sum is 0, which SAEBench takes for padding."""
    cut = LanguageModel.load("smollm2").cut(hook)
    found = run_texts(cut, texts, TextLimits(most_tokens=TOKENS, drop="end"), True, False, lambda amount: None)
    rows = torch.nn.functional.layer_norm(found["rows"], found["rows"].shape[1:])
    rows[:, 0] += 1
    return TextActivations(rows, found["owner"], 0, "", False)


def padded(found: TextActivations, texts: int) -> Tensor:
    """``[texts, tokens, d]``, 0 where there is no token."""
    places = torch.cat([torch.arange(int(count)) for count in torch.bincount(found.owner, minlength=texts)])
    out = torch.zeros(texts, TOKENS, found.rows.shape[1])
    out[found.owner, places] = found.rows
    return out


class _Protocol:
    protocol = read_concept_protocol()


def ours(
    sae: SparseAutoencoder, found: TextActivations, means: Tensor, classes: dict[str, Problem],
    pairs: dict[str, Problem], fitted: dict[str, Fitted],
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:  # fmt: skip
    """``(figures, seconds)`` by evaluation."""
    figures: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    for kind, problems, evaluator in (
        ("tpp", classes, TargetedProbePerturbation), ("scr", pairs, SpuriousCorrelationRemoval),
    ):  # fmt: skip
        start = time.perf_counter()
        own = Concepts(means, pooled_latents(sae, found, means.shape[0], "mean", scaled=True), sae.W_dec, fitted[kind])
        data = evaluator.measure(_Protocol, own, Unit([], problems, {}))  # type: ignore[arg-type]
        made = evaluator.metrics_of({"sets": {"s": {"units": {"u": data}}}, "missing": {}})
        figures[kind] = {each.name: float(each.value or 0) for each in made}
        seconds[kind] = time.perf_counter() - start
    return figures, seconds


def run() -> list[Row]:
    given = os.environ.get("SAEBENCH_SAES"), os.environ.get("SAEBENCH_AG_NEWS")
    if not all(given):
        return [Row("SAEBench", "not measured", note="SAEBENCH_SAES and SAEBENCH_AG_NEWS are not set")]
    saes = [checkpoints.load(path) for path in str(given[0]).split(",")]
    texts, classes, pairs = texts_of(Path(str(given[1])))
    found = activations(texts, str(saes[0].info.hook_in))
    means = pool(found.rows, found.owner, len(texts), "mean")
    settings = read_concept_protocol().probe
    fitted = {
        kind: fit_linear(Dense(means), together([each.train for each in problems.values()]), settings, 0)
        for kind, problems in (("tpp", classes), ("scr", pairs))
    }
    tensors: dict[str, Tensor] = {"activations": padded(found, len(texts))}
    for name, problem in {**classes, **pairs}.items():
        for part, split in (("train", problem.train), ("test", problem.test)):
            tensors |= {f"{name}.{part}.rows": split.rows, f"{name}.{part}.labels": split.labels}
    for kind, probes in fitted.items():
        tensors |= {f"{kind}.weight": probes.weight, f"{kind}.bias": probes.bias}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "data.safetensors")
        names = {"tpp": list(classes), "scr": list(pairs)}
        (folder / "problems.json").write_text(json.dumps(names))
        for sae in saes:
            assert isinstance(sae, SparseAutoencoder)
            plain = replace(sae, scaling=InputScaling())
            mine, seconds = ours(plain, found, means, classes, pairs, fitted)
            weights = {name: each.contiguous() for name, each in plain.tensors() if name.startswith(("W_", "b_"))}
            weights["k"] = torch.tensor(plain.activation.describe()["k"])
            save_file(weights, folder / "sae.safetensors")
            printed = run_peer("saebench", "peer_saebench_concepts.py", str(folder))
            if printed is None:
                return [Row("SAEBench", "not measured", note="its environment is absent")]
            rows += compared(f"k = {int(weights['k'])}", mine, seconds, json.loads(printed.splitlines()[-1]))
    return rows


def compared(label: str, mine: dict[str, dict[str, float]], seconds: dict[str, float], theirs: dict[str, Any]) -> list[Row]:
    rows = []
    for kind, figures in mine.items():
        its = theirs["found"][kind]
        gap = max(abs(figures[name] - its[name]) for name in figures)
        one, two = (sum(each[name] for name in figures) / len(figures) for each in (figures, its))
        took = f"{seconds[kind]:.1f} s and {theirs['seconds'][kind]:.1f} s"
        note = f"mean {one:.4f} and {two:.4f} of {len(figures)} figures; {took}"
        rows.append(Row(f"{label}: {kind}", f"largest difference {gap:.2g}", note=note))
    return rows
