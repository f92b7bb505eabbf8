"""What both evaluators on linear probes share: protocol, options, texts, and probes that are trained once."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from saebench.definitions import read_definition
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured, Setup
from saebench.evaluators.concepts.effects import Concepts, check_writes_where_it_reads, concepts, together
from saebench.evaluators.over_tasks import TaskEvaluator
from saebench.probing.class_texts import Unit
from saebench.probing.linear import Dense, Fitted, LinearSettings, fit_linear
from saebench.probing.memory import cached_or_computed, fingerprint
from saebench.probing.pooled import pooled_key, pooled_texts
from saebench.probing.problems import Split
from saebench.probing.protocol import Strict, TextLimits
from saebench.results import EvaluatorResult, Metric
from saebench.sae import SparseAutoencoder
from saebench.tasks.classes import ClassSet, find_class_sets

PROTOCOL = "linear-concepts"
FEWEST = 40
"""Training and test texts of a probe."""


class _Examples(Strict):
    scr: str
    tpp: str
    train: int = Field(ge=40)
    test: int = Field(ge=40)


class _Ablate(Strict):
    n: tuple[int, ...]
    least_gap: float = Field(gt=0)


class ConceptProtocol(Strict):
    """The protocol of both evaluators; ``sha256`` of its file."""

    version: int
    citation: str
    examples: _Examples
    text: TextLimits
    probe: LinearSettings
    ablate: _Ablate
    sha256: str


def read_concept_protocol() -> ConceptProtocol:
    """The protocol in ``probes/linear-concepts.toml``.

    Raises:
        SaebenchError: it is missing or invalid.
    """
    return read_definition(ConceptProtocol, "probes", PROTOCOL)


class ConceptEvaluator(TaskEvaluator):
    """Probes on the model's activations, read again after the latents of one concept are set to 0."""

    option_names: ClassVar[tuple[str, ...]] = ("tasks", "train", "test")
    samples: ClassVar[tuple[str, ...]] = ("sets", "missing")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.protocol = read_concept_protocol()
        self.weights = fingerprint(setup.sae)
        self.bos = setup.corpus.bos != "none" and setup.cut.model.tokenizer.bos_token_id is not None
        self.limits = self.protocol.text.with_bos(self.bos)
        examples, options = self.protocol.examples, setup.options
        self.sizes = options.get("train", examples.train), options.get("test", examples.test)

    @classmethod
    def requested(cls, setup: Setup) -> list[ClassSet]:
        """The sets: those of the option ``tasks``, else the protocol's."""
        wanted = str(setup.options.get("tasks") or getattr(read_concept_protocol().examples, cls.name))
        return find_class_sets(wanted, setup.data_dir)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where an option is invalid, no data are available, or latents cannot be ablated."""
        super().check(setup)
        for name in ("train", "test"):
            value = setup.options.get(name, FEWEST)
            if type(value) is not int or value < FEWEST:
                raise SaebenchError(f"The option {name} of {cls.name} is a whole number of texts, {FEWEST} or more.")
        if not isinstance(setup.sae, SparseAutoencoder):
            raise SaebenchError(
                f"The evaluator {cls.name} needs weights, which a {type(setup.sae).__name__} does not have: "
                "leave it out or give a checkpoint."
            )
        check_writes_where_it_reads(setup, cls.name)

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """SHA-256 of the protocol and of the sets."""
        sets = {f"tasks/classes/{each.name}": each.sha256 for each in cls.tasks_of(setup)}
        return {f"probes/{PROTOCOL}": read_concept_protocol().sha256, **sets}

    @abstractmethod
    def units(self, of: ClassSet) -> dict[str, Unit]:
        """A set's units by name."""

    @abstractmethod
    def measure(self, found: Concepts, unit: Unit) -> dict[str, Any]:
        """What a unit's metrics are computed from; JSON data."""

    @classmethod
    @abstractmethod
    def metrics_of(cls, details: dict[str, Any]) -> list[Metric]:
        """All metrics, from what ``measure`` returned for all sets."""

    def compute(self) -> EvaluatorResult:
        """Measure every set whose data are available.

        Raises:
            SaebenchError: none could be measured.
        """
        found, missing = self.over_tasks("Ablating concepts", self._set)
        details = {"sets": found, "missing": missing}
        settings = {"protocol": self.protocol.model_dump(mode="json", exclude={"sha256"}), "bos": self.bos}
        return self.result(self.metrics_of(details), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the accuracies of the probes."""
        return cls.metrics_of(found.details)

    def _set(self, of: ClassSet, advance: Callable[[float], None]) -> dict[str, Any]:
        units = self.units(of)
        texts = sum(len(each.texts) for each in units.values())

        def fitted() -> dict[str, Fitted]:
            key = f"probes of {self.name} {of.sha256} {self.sizes} {self.setup.seed}"
            return self.setup.shared.once(key, lambda: self._fitted(units))

        found = {
            name: {"data": unit.record, **self._unit(of, name, unit, fitted, lambda amount: advance(amount / texts))}
            for name, unit in units.items()
        }
        return {"title": of.title, "version": of.version, "units": found}

    def _fitted(self, units: dict[str, Unit]) -> dict[str, Fitted]:
        """The probes of all units, those of equally many texts together: each step costs little more than for one unit."""
        by_size: dict[int, list[str]] = {}
        for name, unit in units.items():
            by_size.setdefault(together([each.train for each in unit.problems.values()]).rows.shape[1], []).append(name)
        found: dict[str, Fitted] = {}
        for names in by_size.values():
            acts = [self._pooled(units[name]) for name in names]
            starts = np.cumsum([0, *(each.shape[0] for each in acts)])
            every = [
                Split(each.train.rows + int(start), each.train.labels)
                for name, start in zip(names, starts, strict=False) for each in units[name].problems.values()
            ]  # fmt: skip
            counts = [len(units[name].problems) for name in names]
            numbers = [number for count in counts for number in range(count)]
            probes = fit_linear(Dense(torch.cat(acts)), together(every), self.protocol.probe, self.setup.seed, numbers)
            parts = zip(*(each.split(counts) for each in probes), strict=True)
            found |= {name: Fitted(*part) for name, part in zip(names, parts, strict=True)}
        return found

    def _pooled(self, unit: Unit) -> Tensor:
        """``[texts, d]``: the activations of a unit's texts."""
        setup = self.setup
        return pooled_texts(setup.cut, unit.texts, self.limits, "mean", self.bos, None, lambda amount: None).activations

    def _unit(
        self, of: ClassSet, name: str, unit: Unit, fitted: Callable[[], dict[str, Fitted]], advance: Callable[[float], None]
    ) -> dict[str, Any]:
        setup = self.setup
        key = pooled_key(setup.cut, unit.texts, self.limits, "mean", self.bos)
        known = {"evaluator": [self.name, self.version], "set": of.sha256, "protocol": self.protocol.sha256, "texts": key,
                 "sizes": self.sizes, "problems": list(unit.problems), "seed": setup.seed}  # fmt: skip

        @functools.cache
        def probes() -> Fitted:
            key_of_probes = {**known, "probes": True} if key else None
            return _read(cached_or_computed(key_of_probes, lambda: _written(fitted()[name]))[0])

        def measured() -> dict[str, Any]:
            return self.measure(concepts(setup, unit.texts, self.limits, self.bos, probes(), advance), unit)

        return cached_or_computed({**known, "sae": self.weights} if key and self.weights else None, measured)[0]


def mean_with_error(found: Sequence[Sequence[float]]) -> tuple[float, float]:
    """``(mean, standard error)`` of several such pairs, which are a fixed list: the error combines theirs."""
    values, errors = zip(*found, strict=True)
    return math.fsum(values) / len(values), math.sqrt(sum(error**2 for error in errors)) / len(errors)


def _written(fitted: Fitted) -> dict[str, Any]:
    return {name: each.tolist() for name, each in fitted._asdict().items()}


def _read(data: dict[str, Any]) -> Fitted:
    return Fitted(torch.tensor(data["weight"]), torch.tensor(data["bias"]), torch.tensor(data["epoch"]))
