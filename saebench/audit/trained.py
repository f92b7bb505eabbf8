"""Small autoencoders trained on the planted model, kept at several points of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from saebench.planted import PlantedWorld
from saebench.sae import SparseAutoencoder
from saebench.training.config import TrainingConfig
from saebench.training.sources import TensorSource
from saebench.training.trainer import Trainer

BATCH, LEARNING_RATE, DECAY_OF_AVERAGE = 256, 3e-3, 0.99


@dataclass(frozen=True)
class Kept:
    """An autoencoder after some steps of training.

    Attributes:
        sae: it; ``tokens``: that it was trained on; ``seed``: of the run.
        arch, freeze, n, k: as in ``TrainingConfig``.
    """

    sae: SparseAutoencoder
    tokens: int
    seed: int
    arch: str
    freeze: str
    n: int
    k: int


def train_small(
    world: PlantedWorld,
    activations: Tensor,
    steps: Sequence[int],
    seed: int,
    arch: str = "topk",
    n: int = 128,
    k: int = 3,
    freeze: str = "",
    median: Tensor | None = None,
) -> list[Kept]:
    """Train on ``activations`` ``[tokens, d]``, of this geometric ``median``, and keep a copy after each of ``steps``."""
    config = TrainingConfig(
        model=world.model.name, hook=world.hook, context=world.config.context, arch=arch, n=n, k=k, freeze=freeze,
        tokens=max(steps) * BATCH, batch=BATCH, lr=LEARNING_RATE, scaling="none", ema=DECAY_OF_AVERAGE, seed=seed,
        device="cpu",
    )  # fmt: skip
    trainer, kept = Trainer(config, activations, median=median), []
    for number, batch in TensorSource(activations).batches(BATCH, seed, 0):
        trainer.train_step(batch)
        if number + 1 in steps:
            kept.append(Kept(trainer.sae(), (number + 1) * BATCH, seed, arch, freeze, n, k))
        if number + 1 >= max(steps):
            break
    return kept
