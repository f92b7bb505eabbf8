"""k-sparse probing: how well a few latents classify texts, next to as many channels and to all of them.

A task is binary, or a set of classes with a probe for each class against equally many texts of each other class.
Sources: Karvonen et al. 2025 (SAEBench) and Kantamneni et al. 2025 (sae-probes); one evaluator, two protocols.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array

from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured, Setup
from saebench.evaluators.over_tasks import Steps, TaskEvaluator
from saebench.parsing import names_in
from saebench.probing.activations import task_activations
from saebench.probing.memory import cached_or_computed, fingerprint
from saebench.probing.pooled import PooledTexts, pooled_key, pooled_texts
from saebench.probing.ridge import Values
from saebench.probing.sparse import (
    Pooled,
    SparseProtocol,
    latents_of,
    pooled_channels,
    probe,
    read_sparse_protocol,
)
from saebench.probing.summary import OverTasks, mean_over
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Direction
from saebench.results.statistics import Estimate
from saebench.tasks import Task, find_tasks, load_task
from saebench.tasks.classes import ClassSet, class_set_names, find_class_sets


class SparseProbing(TaskEvaluator):
    """Accuracy of probes on k latents, on k channels, and on all of either; finished tasks are cached on disk."""

    name = "sparse_probing"
    version = 2
    description = "Accuracy of probes on a few latents (SAEBench's protocol, or that of sae-probes), against channels"
    option_names: ClassVar[tuple[str, ...]] = ("tasks", "protocol", "train", "test")
    samples: ClassVar[tuple[str, ...]] = ("tasks", "missing", "k")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.protocol = _protocol(setup.options)
        self.weights = fingerprint(setup.sae)
        self.bos = setup.corpus.bos != "none" and setup.cut.model.tokenizer.bos_token_id is not None

    @classmethod
    def default_tasks(cls, setup: Setup) -> str:
        """The protocol's set."""
        return _protocol(setup.options).examples.tasks

    @classmethod
    def requested(cls, setup: Setup) -> list[Task | ClassSet]:
        """The sets of classes and the binary tasks of the option ``tasks``, else of the protocol."""
        found: dict[str, Task | ClassSet] = {}
        for name in names_in(str(setup.options.get("tasks") or cls.default_tasks(setup))):
            is_set = name in class_set_names(setup.data_dir)
            found |= {
                each.name: each
                for each in (find_class_sets(name, setup.data_dir) if is_set else find_tasks(name, setup.data_dir))
            }
        return list(found.values())

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """SHA-256 of the protocol and of the requested tasks."""
        name, protocol, tasks = _name(setup.options), _protocol(setup.options), dict[str, str]()
        for each in cls.tasks_of(setup):
            tasks[f"{'tasks/classes' if isinstance(each, ClassSet) else 'tasks'}/{each.name}"] = each.sha256
        return {f"probes/{name}": protocol.sha256, **tasks}

    def compute(self) -> EvaluatorResult:
        """Probe every task whose data are available.

        Raises:
            SaebenchError: none could be probed.
        """
        found, missing = self.over_tasks("Sparse probing", self._one)
        details = {"tasks": found, "missing": missing, "k": list(self.protocol.probe.k)}
        settings = {"protocol": self.protocol.model_dump(mode="json", exclude={"sha256"}), "bos": self.bos}
        return self.result(_metrics(details), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the numbers of the tasks."""
        return _metrics(found.details)

    def _one(self, task: Task | ClassSet, advance: Callable[[float], None]) -> dict[str, Any]:
        return self._classes(task, advance) if isinstance(task, ClassSet) else self._task(task, advance)

    def _task(self, task: Task, advance: Callable[[float], None]) -> dict[str, Any]:
        protocol, seed, sae = self.protocol, self.setup.seed, self.setup.sae
        most = 2 * (protocol.examples.train + protocol.examples.test)
        data = self.setup.shared.once(
            f"task {task.sha256} for sparse probing, {protocol.shares} {most} {seed}",
            lambda: load_task(task, protocol.shares, most, seed, self.setup.data_dir),
        )
        steps = Steps(advance, sum(map(len, data.parts.values())))
        pooling = protocol.probe.pooling
        acts = task_activations(self.setup.cut, data, protocol.text, pooling, self.bos, steps)

        def latents() -> dict[str, Any]:
            return probe(Pooled.of(acts, latents_of(sae, acts, pooling)), protocol.probe, seed)

        def channels() -> dict[str, Any]:
            return probe(Pooled.of(acts, pooled_channels(acts, pooling)), protocol.probe, seed)

        own, other = self._cached({"activations": acts.key} if acts.cached else None, latents, channels)
        return {"title": task.title, "data": {**data.record, "truncated": acts.truncated}, "sae": own, "llm": other}

    def _classes(self, of: ClassSet, advance: Callable[[float], None]) -> dict[str, Any]:
        setup, settings = self.setup, self.protocol.probe
        sizes = self.protocol.examples
        unit = self.classes(of, 2 * sizes.train, 2 * sizes.test)
        steps, limits = Steps(advance, len(unit.texts)), self.protocol.text.with_bos(self.bos)

        def probes(values: Values) -> dict[str, Any]:
            return {
                name: probe(Pooled.of_problem(values, problem), settings, setup.seed)
                for name, problem in unit.problems.items()
            }

        @functools.cache
        def encoded() -> PooledTexts:
            return pooled_texts(setup.cut, unit.texts, limits, settings.pooling, self.bos, setup.sae, steps)

        def latents() -> dict[str, Any]:
            return probes(csr_array(encoded().latents).astype(np.float64))

        def channels() -> dict[str, Any]:
            return probes(encoded().activations.double().numpy())

        texts = pooled_key(setup.cut, unit.texts, limits, settings.pooling, self.bos)
        data = {"texts": texts, "problems": list(unit.problems)} if texts else None
        own, other = self._cached(data, latents, channels)
        if not encoded.cache_info().currsize:
            advance(1)
        return {"title": of.title, "data": unit.record, "classes": list(unit.problems), "sae": own, "llm": other}

    def _cached(
        self, data: dict[str, Any] | None, latents: Callable[[], dict[str, Any]], channels: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numbers of the autoencoder and of the channels; those with a key come from the cache where they are in it."""
        common = {"sparse_probing": self.version, "protocol": self.protocol.model_dump(mode="json"),
                  "seed": self.setup.seed, **(data or {})}  # fmt: skip
        own, _ = cached_or_computed({"sae": self.weights, **common} if data and self.weights else None, latents)
        other, _ = cached_or_computed({"channels": True, **common} if data else None, channels)
        return own, other


def _name(options: Mapping[str, Any]) -> str:
    return str(options.get("protocol") or "saebench")


def _protocol(options: Mapping[str, Any]) -> SparseProtocol:
    """The protocol, with the user's numbers of texts.

    Raises:
        SaebenchError: there is no such protocol, or a number of texts is too small.
    """
    protocol = read_sparse_protocol(_name(options))
    sizes = dict(protocol.examples)
    for name, least in (("train", 40), ("test", 10)):
        value = options.get(name, sizes[name])
        if type(value) is not int or value < least:
            raise SaebenchError(
                f"The option {name} of sparse_probing is a whole number of texts per class, {least} or more."
            )
        sizes[name] = value
    return protocol.model_copy(update={"examples": type(protocol.examples)(**sizes)})


def _metrics(details: Mapping[str, Any]) -> list[Metric]:
    tasks = list(details["tasks"].values())
    count = OverTasks(len(tasks), len(tasks) + len(details["missing"]))
    made = []
    for whose, words in (("sae", "latents"), ("llm", "channels of the activations")):
        direction: Direction = "higher" if whose == "sae" else "none"
        for k in (*map(str, details["k"]), "all"):
            scores = [_of_classes([by[k] for by in (each[whose][name] for name in each["classes"])]) if "classes" in each
                      else each[whose][k] for each in tasks]  # fmt: skip
            accuracy, auc = _accuracy_and_auc(scores)
            name = f"{whose}_test" if k == "all" else f"{whose}_top_{k}_test"
            what = f"of a probe on {k} {words}, mean over tasks"
            made.append(count.metric(f"{name}_accuracy", accuracy, "1", direction, f"Accuracy {what}"))
            made.append(count.metric(f"{name}_auc", auc, "1", direction, f"AUC {what}"))
    return made


def _of_classes(scores: list[Any]) -> dict[str, float | None]:
    """A set's score: the mean over its classes."""
    accuracy, auc = _accuracy_and_auc(scores)
    return {"accuracy": accuracy.value, "standard_error": accuracy.standard_error, "auc": auc.value}


def _accuracy_and_auc(scores: list[Any]) -> tuple[Estimate, Estimate]:
    """Means over tasks, or over the classes of one."""
    errors = [each["standard_error"] for each in scores]
    return mean_over([each["accuracy"] for each in scores], errors), mean_over([each["auc"] for each in scores])
