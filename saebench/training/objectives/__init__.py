"""Objectives: one file for each architecture, with its activation, its loss and its form at inference."""

from __future__ import annotations

from saebench.errors import SaebenchError
from saebench.training.config import TrainingConfig
from saebench.training.mesh import Mesh
from saebench.training.objectives.base import Objective, Outcome, Weights
from saebench.training.objectives.batchtopk import BatchTopK
from saebench.training.objectives.gated import GatedObjective
from saebench.training.objectives.jumprelu import JumpReLUObjective
from saebench.training.objectives.matryoshka import Matryoshka
from saebench.training.objectives.prolu import ProLUObjective
from saebench.training.objectives.relu import ReLUObjective
from saebench.training.objectives.topk import MultiTopK, TopKObjective

OBJECTIVES: dict[str, type[Objective]] = {
    "topk": TopKObjective,
    "multitopk": MultiTopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLUObjective,
    "relu": ReLUObjective,
    "gated": GatedObjective,
    "prolu": ProLUObjective,
}

__all__ = ["OBJECTIVES", "Objective", "Outcome", "Weights", "make_objective"]


def make_objective(config: TrainingConfig, weights: Weights, mesh: Mesh) -> Objective:
    """The objective of a configuration's architecture.

    Raises:
        SaebenchError: it cannot be distributed over the axes of the mesh.
    """
    kind = OBJECTIVES[config.arch]
    for axis, size in (("replicas", mesh.replicas), ("shards", mesh.shards)):
        if size > 1 and axis not in kind.axes:
            able = ", ".join(name for name, each in OBJECTIVES.items() if axis in each.axes)
            raise SaebenchError(f"{config.arch} cannot be trained over {size} {axis}; these can: {able}.")
    objective = kind(config, weights)
    objective.mesh = mesh
    return objective
