"""How much an audit on the planted model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saebench.planted import DAMAGES, documents

BASE = ("reconstruction", "downstream", "ablation")
OTHERS = ("shrinkage", "progressive", "dictionary", "probe_loss", "explainability")
SUITE = ("core", "sparse_probing", "tpp", "scr", "autointerp")
"""SAEBench's evaluators that run on the planted model; see ``saebench.audit.unplanted`` for the others."""
ARCHITECTURES = ("batchtopk", "matryoshka", "jumprelu", "relu", "gated")
FROZEN = ("decoder", "soft-decoder", "encoder")
TOGETHER = 7
"""Damaged autoencoders that are evaluated together: enough for one pass over the text to pay, few enough to distribute."""


@dataclass(frozen=True)
class Run:
    """A training run: the fields that differ from the plan's, as ``TrainingConfig`` has them; ``steps`` keep a copy each."""

    steps: tuple[int, ...]
    arch: str = "topk"
    freeze: str = ""
    n: int = 128
    k: int = 3


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        evaluators: that are audited; ``options``: of theirs.
        tokens: of each text; ``repeats``: texts of the noise lens.
        doses: how many of each damage's doses, 0 included; the last ones are kept.
        seeds: of TopK runs, each with its controls; ``frozen``: how many of them also have trained controls.
        others: seeds of a run of every other architecture.
        steps: of training after which a copy of a TopK run is evaluated; ``other_steps``: of other architectures.
        widths, ks: of the grid.
        training_tokens: of the training text.
    """

    evaluators: tuple[str, ...] = BASE + OTHERS + SUITE
    options: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "ablation": {"tokens": 32}, "explainability": {"latents": 32}, "probe_loss": {"tasks": "planted"},
            "sparse_probing": {"tasks": documents.TASKS, "train": 80, "test": 20},
            "tpp": {"tasks": documents.CLASSES, "train": 120, "test": 80},
            "scr": {"tasks": documents.CLASSES, "train": 120, "test": 80},
            "autointerp": {"latents": 16, "model": "planted features", "concurrency": 1},
        }
    )  # fmt: skip
    tokens: int = 3072
    repeats: int = 24
    doses: int = 5
    seeds: int = 8
    frozen: int = 4
    others: int = 2
    steps: tuple[int, ...] = (75, 150, 300, 500)
    other_steps: tuple[int, ...] = (75, 150, 500)
    widths: tuple[int, ...] = (64, 256)
    ks: tuple[int, ...] = (2, 6, 12)
    training_tokens: int = 65_536

    def damages(self) -> Iterator[tuple[tuple[str, float], ...]]:
        """Kinds and doses that are evaluated together. Dose 0 is the oracle, once for each kind."""
        chosen: list[tuple[str, float]] = []
        for kind, damage in DAMAGES.items():
            doses = damage.doses[1:][:: -max(1, 4 // (self.doses - 1))][: self.doses - 1]
            chosen += [(kind, dose) for dose in sorted({0.0, *doses})]
        for start in range(0, len(chosen), TOGETHER):
            yield tuple(chosen[start : start + TOGETHER])

    def runs(self) -> Iterator[tuple[int, tuple[Run, ...], bool]]:
        """Seed, the training runs of that seed which are evaluated together, and whether they get controls."""
        for seed in range(self.seeds):
            frozen = FROZEN if seed < self.frozen else ()
            yield seed, (Run(self.steps), *(Run(self.steps[-1:], freeze=kind) for kind in frozen)), True
        for seed in range(self.others):
            for arch in ARCHITECTURES:
                yield seed, (Run(self.other_steps, arch),), False
        for n in self.widths:
            yield 0, tuple(Run(self.steps[-1:], n=n, k=k) for k in self.ks), False


QUICK = Plan(
    evaluators=BASE, options={"ablation": {"tokens": 16}}, tokens=1536, repeats=8, doses=3, seeds=4, frozen=0,
    others=0, steps=(25, 60, 120), widths=(), ks=(), training_tokens=16_384,
)  # fmt: skip
