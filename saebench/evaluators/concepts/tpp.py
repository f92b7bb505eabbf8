"""Targeted probe perturbation: whether ablating a class's latents changes the probe of that class alone.

Source: Karvonen et al. 2024 (arXiv 2411.18895) and SAEBench 0.6, ``evals/scr_and_tpp``. SAEBench keeps the epoch of a probe
that is most accurate on the test texts; here it is the last.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from saebench.evaluators.concepts.base import ConceptEvaluator, mean_with_error
from saebench.evaluators.concepts.effects import Concepts, correct, largest, paired_by_probe
from saebench.probing.class_texts import Unit
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.tasks.classes import ClassSet


class TargetedProbePerturbation(ConceptEvaluator):
    """Falls of the probes' accuracies after the latents of each class are ablated."""

    name = "tpp"
    description = "How much more ablating a class's latents hurts its own probe than those of other classes"

    def units(self, of: ClassSet) -> dict[str, Unit]:
        """One, with all classes."""
        return {of.name: self.classes(of, *self.sizes)}

    def measure(self, found: Concepts, unit: Unit) -> dict[str, Any]:
        """Clean accuracies by class; by ablated class, number of latents and class the fall and its standard error."""
        names = list(unit.problems)
        tests = [unit.problems[each].test for each in names]
        rows, labels = (torch.stack(each) for each in zip(*tests, strict=True))  # of each class equally many
        probe = torch.arange(len(names)).unsqueeze(1)
        logits = torch.stack([found.logits(number, test) for number, test in enumerate(tests)])
        clean = correct(logits, labels)
        falls: dict[str, dict[str, dict[str, list[float]]]] = {}
        for number, name in enumerate(names):
            effects = found.effects(number, unit.problems[name].train, signed=True)
            falls[name] = {}
            for n in self.protocol.ablate.n:
                change = found.changes(largest(effects, n))[rows, probe]
                falls[name][str(n)] = dict(zip(names, paired_by_probe(clean, correct(logits - change, labels)), strict=True))
        accuracies = {name: float(each.mean()) for name, each in zip(names, clean, strict=True)}
        return {"clean": accuracies, "falls": falls, "epochs": found.fitted.epoch.tolist()}

    @classmethod
    def metrics_of(cls, details: dict[str, Any]) -> list[Metric]:
        """Totals and their two parts, by number of latents: means over sets of means over classes."""
        units = [unit for each in details["sets"].values() for unit in each["units"].values()]
        wanted = len(units) + len(details["missing"])
        unit = "sets" if len(units) == wanted else f"of {wanted} sets"
        found = []
        for n in next(iter(units[0]["falls"].values())):
            parts = [_of_set(each["falls"], n) for each in units]
            for index, (name, direction, words) in enumerate(
                (
                    ("total_metric", "higher", "Fall of the class's own accuracy minus that of the others"),
                    ("intended_diff_only", "none", "Fall of the class's own accuracy"),
                    ("unintended_diff_only", "none", "Mean fall of the other classes' accuracies"),
                )
            ):
                estimate = Estimate(*mean_with_error([each[index] for each in parts]))
                found.append(
                    metric(
                        f"tpp_threshold_{n}_{name}", estimate, unit="1", direction=direction, n=len(units), n_unit=unit,  # type: ignore[arg-type]
                        description=f"{words}, {n} latents ablated",
                    )
                )  # fmt: skip
        return found


def _of_set(falls: dict[str, dict[str, dict[str, list[float]]]], n: str) -> list[tuple[float, float]]:
    """``(mean over classes, standard error)`` of the total, the intended and the unintended fall."""
    own, others = [], []
    for name, by_n in falls.items():
        own.append(by_n[n][name])
        others.append(mean_with_error([fall for other, fall in by_n[n].items() if other != name]))
    totals = [(a[0] - b[0], math.hypot(a[1], b[1])) for a, b in zip(own, others, strict=True)]
    return [mean_with_error(some) for some in (totals, own, others)]
