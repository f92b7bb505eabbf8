"""Objectives: one file for each architecture, with its activation, its loss and what it becomes at inference."""

from __future__ import annotations

from saebench.training.config import TrainingConfig
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


def make_objective(config: TrainingConfig, weights: Weights) -> Objective:
    """The objective of a configuration's architecture."""
    return OBJECTIVES[config.arch](config, weights)
