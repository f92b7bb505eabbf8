"""k-sparse probing: how well a few latents classify texts, next to as many channels and to all of them.

Sources: Karvonen et al. 2025 (SAEBench) and Kantamneni et al. 2025 (sae-probes); one evaluator, two protocols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured, Setup
from saebench.evaluators.over_tasks import Steps, TaskEvaluator
from saebench.probing.activations import task_activations
from saebench.probing.memory import cached_or_computed, fingerprint
from saebench.probing.sparse import Pooled, SparseProtocol, latents_of, pooled_channels, probe, read_sparse_protocol
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.tasks import Task, load_task


class SparseProbing(TaskEvaluator):
    """Accuracy of probes on k latents, on k channels, and on all of either; finished tasks are cached on disk."""

    name = "sparse_probing"
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
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """SHA-256 of the protocol and of the requested tasks."""
        name, protocol = _name(setup.options), _protocol(setup.options)
        return {f"probes/{name}": protocol.sha256, **{f"tasks/{task.name}": task.sha256 for task in cls.requested(setup)}}

    def compute(self) -> EvaluatorResult:
        """Probe every task whose data are available.

        Raises:
            SaebenchError: none could be probed.
        """
        found, missing = self.over_tasks("Sparse probing", self._task)
        details = {"tasks": found, "missing": missing, "k": list(self.protocol.probe.k)}
        settings = {"protocol": self.protocol.model_dump(mode="json", exclude={"sha256"}), "bos": self.bos}
        return self.result(_metrics(details), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the numbers of the tasks."""
        return _metrics(found.details)

    def _task(self, task: Task, advance: Callable[[float], None]) -> dict[str, Any]:
        protocol, seed, sae = self.protocol, self.setup.seed, self.setup.sae
        most = 2 * (protocol.examples.train + protocol.examples.test)
        data = load_task(task, protocol.shares, most, seed, self.setup.data_dir)
        steps = Steps(advance, sum(map(len, data.parts.values())))
        pooling = protocol.probe.pooling
        acts = task_activations(self.setup.cut, data, protocol.text, pooling, self.bos, steps)
        common = {"protocol": protocol.model_dump(mode="json"), "activations": acts.key, "seed": seed}

        def latents() -> dict[str, Any]:
            return probe(Pooled.of(acts, latents_of(sae, acts, pooling)), protocol.probe, seed)

        def channels() -> dict[str, Any]:
            return probe(Pooled.of(acts, pooled_channels(acts, pooling)), protocol.probe, seed)

        known = {"sparse_probing": self.version, "sae": self.weights, **common} if self.weights and acts.cached else None
        base = {"sparse_probing": self.version, "channels": True, **common} if acts.cached else None
        own, _ = cached_or_computed(known, latents)
        other, _ = cached_or_computed(base, channels)
        return {"title": task.title, "data": {**data.record, "truncated": acts.truncated}, "sae": own, "llm": other}


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
    wanted = len(tasks) + len(details["missing"])
    made = []
    for whose, words in (("sae", "latents"), ("llm", "channels of the activations")):
        direction: Literal["higher", "none"] = "higher" if whose == "sae" else "none"
        for k in (*map(str, details["k"]), "all"):
            scores = [each[whose][k] for each in tasks]
            name = f"{whose}_test" if k == "all" else f"{whose}_top_{k}_test"
            what = f"of a probe on {k} {words}, mean over tasks"
            made.append(_mean(f"{name}_accuracy", scores, "accuracy", wanted, direction, f"Accuracy {what}"))
            made.append(_mean(f"{name}_auc", scores, "auc", wanted, direction, f"AUC {what}"))
    return made


def _mean(name: str, scores: list[Any], of: str, wanted: int, direction: Literal["higher", "none"], words: str) -> Metric:
    """The mean over tasks, which are a fixed list: its error combines theirs."""
    values = [float(each[of]) for each in scores]
    errors = [each["standard_error"] for each in scores] if of == "accuracy" else []
    known = errors and all(error is not None for error in errors)
    error = math.sqrt(sum(float(each) ** 2 for each in errors)) / len(errors) if known else None
    unit = "tasks" if len(scores) == wanted else f"of {wanted} tasks"
    remark = "" if len(scores) == wanted else f" (over {len(scores)} of {wanted} tasks: the others' data is missing)"
    return metric(name, Estimate(sum(values) / len(values), error), unit="1", direction=direction, n=len(scores),
                  n_unit=unit, description=words + remark)  # fmt: skip
