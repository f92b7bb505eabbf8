"""Whether expected features exist: the best latent's probe loss on many binary tasks.

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 4.2. The paper's number is the minimum
over latents of the training loss. In addition the same latent's loss on held-out texts is reported, which is free of the
selection bias, and baselines on the residual stream without the autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saebench.evaluators.base import Measured, Setup
from saebench.evaluators.over_tasks import Steps, TaskEvaluator
from saebench.probing.activations import TaskActivations, task_activations
from saebench.probing.best import best_probe
from saebench.probing.memory import cached_or_computed, fingerprint
from saebench.probing.protocol import read_protocol
from saebench.probing.regressions import dense_baselines, k_sparse, random_baseline
from saebench.probing.summary import summarise
from saebench.probing.values import Activations, latent_values
from saebench.results import EvaluatorResult, Metric
from saebench.sae import SparseAutoencoder
from saebench.tasks import Task, TaskData, load_task


class ProbeLoss(TaskEvaluator):
    """Best latent of every task, with baselines; finished tasks are cached on disk and not computed again."""

    name = "probe_loss"
    version = 2
    description = "Loss of the best one-dimensional probe on a latent, over binary tasks, with dense baselines"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.protocol = read_protocol()
        self.weights = fingerprint(setup.sae)
        self.bos = setup.corpus.bos != "none" and setup.cut.model.tokenizer.bos_token_id is not None

    @classmethod
    def default_tasks(cls, setup: Setup) -> str:
        """The protocol's set."""
        return read_protocol().best.examples.tasks

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """SHA-256 of the protocols and of the requested tasks."""
        protocol = read_protocol()
        return {
            **{f"probes/{name}": sha for name, sha in protocol.sha256.items()},
            **{f"tasks/{task.name}": task.sha256 for task in cls.tasks_of(setup)},
        }

    def compute(self) -> EvaluatorResult:
        """Probe every task whose data are available.

        Raises:
            SaebenchError: none could be probed.
        """
        found, missing = self.over_tasks("Probing", self._task)
        exact = isinstance(self.setup.sae, SparseAutoencoder)
        settings = {
            "protocol": self.protocol.model_dump(mode="json", exclude={"sha256"}),
            "values": self.protocol.best.values.of if exact else "activations: the object shows no pre-activations",
            "bos": self.bos,
        }
        metrics = summarise(found, len(found) + len(missing), self.protocol)
        return self.result(metrics, {"tasks": found, "missing": missing}, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the numbers of the tasks."""
        tasks = found.details["tasks"]
        return summarise(tasks, len(tasks) + len(found.details["missing"]), read_protocol())

    def _task(self, task: Task, advance: Callable[[float], None]) -> dict[str, Any]:
        best, seed = self.protocol.best, self.setup.seed
        data = self.setup.shared.once(
            f"task {task.sha256} for probe loss, {seed}",
            lambda: load_task(task, best.examples.shares, best.examples.most, seed, self.setup.data_dir),
        )
        activations = _Pooled(self, data, Steps(advance, sum(map(len, data.parts.values()))))
        acts = activations(best.values.pooling)
        common = {"protocol": self.protocol.sha256, "activations": acts.key, "seed": seed}
        sae = self.setup.sae

        def baselines() -> dict[str, Any]:
            return dense_baselines(acts, self.protocol, seed)

        def random() -> dict[str, Any]:
            return random_baseline(acts, sae.n_latents, self.protocol, seed)

        def latents() -> dict[str, Any]:
            values, sparse = best.values, self.protocol.k_sparse.values
            return {
                "best_latent": best_probe(latent_values(sae, values.of, values.pooling), acts, best.probe, seed),
                "k_sparse": k_sparse(
                    Activations(sae, sparse.pooling), activations(sparse.pooling), self.protocol.k_sparse.probe,
                    best.probe.bootstrap, seed,
                ),
            }  # fmt: skip

        known = {"version": self.version, "sae": self.weights, **common} if self.weights and acts.cached else None
        dense = {"version": self.version, **common}
        own, _ = cached_or_computed(known, latents)
        base, _ = cached_or_computed({"dense": "model", **dense} if acts.cached else None, baselines)
        if "random" in self.protocol.dense.probe.directions:
            base["random"], _ = cached_or_computed({"random": sae.n_latents, **dense} if acts.cached else None, random)
        record = {**data.record, "truncated": acts.truncated}
        return {"title": task.title, "version": task.version, "data": record, **own, "baselines": base}


class _Pooled:
    """A task's activations for each pooling; each is computed once."""

    def __init__(self, evaluator: ProbeLoss, data: TaskData, advance: Callable[[float], None]) -> None:
        self._evaluator, self._data, self._advance = evaluator, data, advance
        self._found: dict[bool, TaskActivations] = {}

    def __call__(self, pooling: Any) -> TaskActivations:
        every = pooling != "last"
        if every not in self._found:
            mine = self._evaluator
            self._found[every] = task_activations(
                mine.setup.cut, self._data, mine.protocol.best.text, pooling, mine.bos, self._advance
            )
            self._advance = lambda amount: None
        return self._found[every]
