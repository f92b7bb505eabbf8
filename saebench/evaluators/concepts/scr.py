"""Spurious correlation removal: whether ablating a concept's latents makes a biased probe read the other concept.

Texts have two attributes, such as a profession and a gender. A probe that is trained on texts in which both agree
confuses them; ablating the latents of the one should make it read the other. Source: Karvonen et al. 2024 (arXiv 2411.18895)
and SAEBench 0.6, ``evals/scr_and_tpp``. SAEBench keeps the epoch of a probe that is most accurate on the test texts; here
it is the last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import Setup
from saebench.evaluators.concepts.base import ConceptEvaluator, mean_with_error, read_concept_protocol
from saebench.evaluators.concepts.effects import Concepts, correct, largest, paired
from saebench.probing.class_texts import Unit
from saebench.probing.problems import Problem, Split, shuffled
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.tasks.classes import PARTS, Cell, ClassSet, load_class_texts

PROBLEMS = ("first", "second", "biased")
"""The class, the second attribute, and the texts in which both agree."""
DIRECTIONS = {"dir1": ("second", "first"), "dir2": ("first", "second")}
"""By direction: whose latents are ablated, and what the biased probe should then read."""


class SpuriousCorrelationRemoval(ConceptEvaluator):
    """Accuracy that a biased probe regains, relative to that of an unbiased one."""

    name = "scr"
    description = "How much of a biased probe's lost accuracy is regained by ablating the spurious concept's latents"

    @classmethod
    def requested(cls, setup: Setup) -> list[ClassSet]:
        """The sets, which must define pairs of classes with a second attribute."""
        sets = super().requested(setup)
        without = [each.name for each in sets if not each.pairs]
        if without:
            raise SaebenchError(f"scr needs pairs of classes and a second attribute; the set {without[0]} defines none.")
        return sets

    def units(self, of: ClassSet) -> dict[str, Unit]:
        """One for each pair of classes, once for all autoencoders of the hook."""
        key = f"pairs of {of.sha256} {self.sizes} {self.setup.seed}"
        setup = self.setup
        return setup.shared.once(key, lambda: pairs_of_classes(of, *self.sizes, setup.seed, setup.data_dir))

    def measure(self, found: Concepts, unit: Unit) -> dict[str, Any]:
        """Accuracies of the clean and the biased probe; the gain and its error by direction and number of latents."""
        biased = PROBLEMS.index("biased")
        clean: dict[str, float] = {}
        original: dict[str, float] = {}
        gains: dict[str, dict[str, list[float]]] = {}
        for direction, (ablated, read) in DIRECTIONS.items():
            test = unit.problems[read].test
            logits = found.logits(biased, test)
            before = correct(logits, test.labels)
            original[direction] = float(before.mean())
            clean[direction] = float(correct(found.logits(PROBLEMS.index(read), test), test.labels).mean())
            effects = found.effects(PROBLEMS.index(ablated), unit.problems[ablated].train, signed=False)
            gains[direction] = {}
            for n in self.protocol.ablate.n:
                change = found.changes(largest(effects, n))[test.rows, biased]
                fall, error = paired(before, correct(logits - change, test.labels))
                gains[direction][str(n)] = [-fall, error]
        return {"clean": clean, "original": original, "gains": gains, "epochs": found.fitted.epoch.tolist()}

    @classmethod
    def metrics_of(cls, details: dict[str, Any]) -> list[Metric]:
        """Scores by number of latents: means over pairs of classes, of both directions and of the harder one."""
        units = [unit for each in details["sets"].values() for unit in each["units"].values()]
        missing = len(details["missing"])
        unit = "pairs" if not missing else f"pairs; {missing} sets are missing"
        least = read_concept_protocol().ablate.least_gap
        found = []
        for n in units[0]["gains"]["dir1"]:
            for name in ("dir1", "metric", "dir2"):
                some = [_score(each, _direction(each) if name == "metric" else name, n, least) for each in units]
                estimate = Estimate(*mean_with_error(some))
                words = {
                    "dir1": "the second attribute's latents", "dir2": "the class's latents",
                    "metric": "the latents of what the biased probe reads better",
                }  # fmt: skip
                found.append(
                    metric(
                        f"scr_{name}_threshold_{n}", estimate, unit="1", n=len(units), n_unit=unit,
                        direction="higher" if name == "metric" else "none",
                        description=f"Lost accuracy regained by ablating {n} of {words[name]}",
                    )
                )  # fmt: skip
        return found


def pairs_of_classes(of: ClassSet, train: int, test: int, seed: int, data_dir: Path | None) -> dict[str, Unit]:
    """A unit for each pair of classes of the set, with the problems ``PROBLEMS``.

    Args:
        of: the set, with pairs and a second attribute.
        train: training texts of a probe.
        test: its test texts.
        seed: for the choice of texts.
        data_dir: folder with the user's data.

    Raises:
        SaebenchError: the data are not available, or there are too few texts.
    """
    loaded = load_class_texts(of, train / (train + test), seed, data_dir)
    found = {}
    for number, pair in enumerate(of.pairs):
        parts = loaded.quadrants(pair, train, test)
        generator = torch.Generator().manual_seed(seed * 1_013 + number)
        texts: list[str] = []
        splits: list[dict[str, Split]] = []
        for part in PARTS:
            splits.append(_splits(parts[part], pair, tuple(of.second), len(texts), generator))
            texts += [text for its in parts[part].values() for text in its]
        problems = {name: Problem(splits[0][name], splits[1][name]) for name in PROBLEMS}
        record = {**loaded.record, "texts": {part: splits[i]["first"].rows.numel() for i, part in enumerate(PARTS)}}
        found[f"{pair[0]} / {pair[1]}"] = Unit(texts, problems, record)
    return found


def _splits(
    cells: dict[Cell, list[str]], pair: tuple[str, str], second: tuple[str, ...], start: int, generator: torch.Generator
) -> dict[str, Split]:
    """The three problems on a part's texts, which come cell by cell from row ``start`` on."""
    size = min(map(len, cells.values()))
    rows: dict[Cell, Tensor] = {}
    for cell, texts in cells.items():
        rows[cell] = torch.arange(start, start + len(texts))
        start += len(texts)

    def some(*wanted: tuple[str, str]) -> Tensor:
        return torch.cat([rows[Cell(*each)][:size] for each in wanted])

    (a, b), (left, right) = pair, second
    return {
        "first": shuffled(some((a, left), (a, right)), some((b, left), (b, right)), generator),
        "second": shuffled(some((a, left), (b, left)), some((a, right), (b, right)), generator),
        "biased": shuffled(rows[Cell(a, left)], rows[Cell(b, right)], generator),
    }


def _direction(unit: dict[str, Any]) -> str:
    """The direction in which the biased probe is less accurate to begin with."""
    return "dir1" if unit["original"]["dir1"] <= unit["original"]["dir2"] else "dir2"


def _score(unit: dict[str, Any], direction: str, n: str, least: float) -> tuple[float, float]:
    """``(score, its standard error)``, the latter of drawing test texts for the gain alone."""
    gap = unit["clean"][direction] - unit["original"][direction]
    gain, error = unit["gains"][direction][n]
    return (0.0, 0.0) if gap < least else (gain / gap, error / gap)
