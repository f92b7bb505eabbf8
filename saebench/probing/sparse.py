"""k-sparse probes on latents and on channels, by the protocols ``probes/saebench.toml`` and ``probes/sae-probes.toml``.

Sources: SAEBench 0.6 (``sae_bench/evals/sparse_probing``), sae-probes 0.4 (``run_sae_evals.py``, ``utils_training.py``).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse
from torch import Tensor

from saebench.definitions import read_definition
from saebench.errors import SaebenchError
from saebench.probing.activations import TaskActivations, TextActivations
from saebench.probing.pooled import pooled_latents
from saebench.probing.problems import Problem
from saebench.probing.protocol import Pooling, TextLimits
from saebench.probing.ridge import Values, as_dense, in_span, ridge_logits
from saebench.probing.scores import area_under_curve, sums_by_group
from saebench.probing.values import pool
from saebench.results.statistics import ratio_estimate
from saebench.sae import Autoencoder

SPARSE_PROTOCOLS = ("saebench", "sae-probes")
VALIDATION_SHARE = 0.2
"""Of the training texts, on which C is chosen where a protocol gives several."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sizes(_Strict):
    """The tasks, and the most texts of each class for training and for testing."""

    tasks: str
    train: int = Field(ge=40)
    test: int = Field(ge=10)


class Probe(_Strict):
    """How latents are selected and probed."""

    pooling: Pooling
    select_by: Literal["difference", "relative difference"]
    k: tuple[int, ...]
    penalty: Literal["l1", "l2"]
    C: tuple[float, ...]


class SparseProtocol(_Strict):
    """A protocol of k-sparse probes; ``sha256``: of its file."""

    version: int
    citation: str
    examples: Sizes
    text: TextLimits
    probe: Probe
    sha256: str

    @property
    def shares(self) -> dict[str, float]:
        """Of ``load_task``: the validation texts are some of those for training."""
        total = self.examples.train + self.examples.test
        train = self.examples.train / total
        parts = {"train": train * (1 - VALIDATION_SHARE), "validation": train * VALIDATION_SHARE}
        return {**parts, "test": 1 - sum(parts.values())}


def read_sparse_protocol(name: str) -> SparseProtocol:
    """A protocol by name.

    Raises:
        SaebenchError: there is none of that name, or its file is invalid.
    """
    if name not in SPARSE_PROTOCOLS:
        raise SaebenchError(f"There is no protocol {name!r} of sparse probing; there are: {', '.join(SPARSE_PROTOCOLS)}.")
    return read_definition(SparseProtocol, "probes", name)


@dataclass(frozen=True)
class Pooled:
    """The values of a task's texts.

    Attributes:
        values: ``[texts, width]``, sparse by columns where they are latents.
        labels, groups: ``[texts]``; ``fit``, ``test``: the texts to train on (those for validation last), and to test on.
        validation: how many of ``fit`` these are.
    """

    values: Values
    labels: NDArray[np.int64]
    groups: Tensor
    fit: slice
    test: slice
    validation: int

    @staticmethod
    def of(acts: TaskActivations, values: Values) -> Pooled:
        """With the labels and parts of ``acts``."""
        fit = slice(0, acts.sizes["train"] + acts.sizes["validation"])
        return Pooled(values, acts.labels.numpy(), acts.groups, fit, acts.span("test"), acts.sizes["validation"])

    @staticmethod
    def of_problem(values: Values, problem: Problem) -> Pooled:
        """Of a problem on some of the texts whose ``values`` are given; its training texts are in random order."""
        rows = torch.cat([problem.train.rows, problem.test.rows])
        labels = torch.cat([problem.train.labels, problem.test.labels])
        count = problem.train.rows.numel()
        chosen = values[rows.numpy()]
        chosen = chosen.tocsc() if sparse.issparse(chosen) else chosen
        validation = round(count * VALIDATION_SHARE)
        return Pooled(chosen, labels.numpy(), rows, slice(0, count), slice(count, rows.numel()), validation)


def latents_of(sae: Autoencoder, acts: TaskActivations, pooling: Pooling) -> Values:
    """``[texts, latents]`` float64, sparse by columns."""
    found = TextActivations(acts.rows, acts.owner, acts.truncated, acts.key, acts.cached)
    return pooled_latents(sae, found, acts.texts, pooling).tocsc().astype(np.float64)


def pooled_channels(acts: TaskActivations, pooling: Pooling) -> NDArray[np.float64]:
    """``[texts, d]``: the activations themselves."""
    found: NDArray[np.float64] = pool(acts.rows.double(), acts.owner, acts.texts, pooling).numpy()
    return found


def select(pooled: Pooled, settings: Probe) -> NDArray[np.int64]:
    """The ``max(k)`` columns whose class means on the training texts differ most, in order."""
    values, labels = pooled.values[pooled.fit], pooled.labels[pooled.fit]
    means = [np.asarray(values[np.flatnonzero(labels == label)].mean(axis=0)).ravel() for label in (0, 1)]
    difference = np.abs(means[1] - means[0])
    if settings.select_by == "relative difference":
        sums = np.asarray(abs(values).sum(axis=0)).ravel()
        counts = np.asarray((values != 0).sum(axis=0)).ravel()
        difference = difference / (sums / (counts + 1e-6) + 1e-6)
    order: NDArray[np.int64] = np.argsort(-difference, kind="stable")[: max(settings.k)]
    return order


def probe(pooled: Pooled, settings: Probe, seed: int) -> dict[str, Any]:
    """Probes on the best k columns for each k, and on all.

    Returns:
        JSON data: by k, and ``all``: ``columns``, ``C``, ``accuracy`` with ``standard_error``, ``auc`` on the test texts.
    """
    order = select(pooled, settings)
    found: dict[str, Any] = {}
    for k in settings.k:
        columns = order[:k]
        found[str(k)] = {"columns": columns.tolist(), **_fitted(pooled, as_dense(pooled.values[:, columns]), settings, seed)}
    found["all"] = _fitted(pooled, pooled.values, settings.model_copy(update={"penalty": "l2"}), seed)
    return found


def _fitted(pooled: Pooled, values: Values, settings: Probe, seed: int) -> dict[str, Any]:
    if sparse.issparse(values):
        values = values.tocsr()
    fit, labels = values[pooled.fit], pooled.labels[pooled.fit]
    strength = settings.C[0]
    if len(settings.C) > 1:
        split = len(labels) - pooled.validation
        tried = [
            _auc(_regression(fit[:split], labels[:split], C, settings, seed, fit[split:]), labels[split:])
            for C in settings.C
        ]
        strength = settings.C[int(np.argmax(tried))]
    logits = _regression(fit, labels, strength, settings, seed, values[pooled.test])
    truth, groups = torch.from_numpy(pooled.labels[pooled.test]), pooled.groups[pooled.test]
    right = ((logits > 0) == (truth == 1)).double()
    accuracy = ratio_estimate(*sums_by_group(right, groups))
    return {"C": strength, "accuracy": accuracy.value, "standard_error": accuracy.standard_error,
            "auc": area_under_curve(logits, truth)}  # fmt: skip


def _auc(logits: Tensor, labels: NDArray[np.int64]) -> float:
    found = area_under_curve(logits, torch.from_numpy(labels))
    return 0.5 if found is None or math.isnan(found) else found


def _regression(
    values: Values, labels: NDArray[np.int64], strength: float, settings: Probe, seed: int, others: Values
) -> Tensor:
    """``[texts]`` float64: logits of ``others``."""
    if settings.penalty == "l2" and values.shape[1] <= max(settings.k):
        return torch.from_numpy(ridge_logits(as_dense(values), labels, strength, as_dense(others)))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if settings.penalty == "l2":
        values, others = in_span(values, others)
        model = LogisticRegression(C=strength, solver="newton-cholesky")
    else:
        model = LogisticRegression(C=strength, l1_ratio=1.0, solver="saga", max_iter=1000, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # weak penalties on separable texts: the originals stop there too
        model.fit(values, labels)
    return torch.from_numpy(np.asarray(model.decision_function(others), dtype=np.float64))
