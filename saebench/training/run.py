"""The training loop: several autoencoders on one stream of activations, each batch read once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from saebench.errors import SaebenchError
from saebench.progress import Advance, Progress
from saebench.training.config import TrainingConfig
from saebench.training.mesh import Mesh
from saebench.training.recipe import ALONE
from saebench.training.saving import keep, prepare_folder, save, write_state
from saebench.training.sources import ChunkedSource
from saebench.training.trainer import Trainer

SAMPLE_TOKENS = 32_768


def train(
    configs: Sequence[TrainingConfig],
    source: ChunkedSource,
    folders: Sequence[Path],
    resume: bool = False,
    progress: Progress | None = None,
    mesh: Mesh = ALONE,
) -> list[Trainer]:
    """Train one or several autoencoders on one stream. They share batch size and seed of the data.

    Args:
        configs: one for each; ``folders``: where each is saved (averaged weights in ``average/`` below it).
        source: the activations.
        resume: resume from the states in the folders.
        progress: updated after each step.
        mesh: the ranks that train together, each of which calls this.

    Raises:
        SaebenchError: settings are inconsistent, a batch is not finite, or a folder cannot be written; the last good
            checkpoint is kept.
    """
    progress = progress or Progress(shown=False)
    first = configs[0]
    if any((each.batch, each.seed, each.steps) != (first.batch, first.seed, first.steps) for each in configs):
        raise SaebenchError("Autoencoders that train together need the same batch, tokens and seed.")
    if first.batch % mesh.replicas:
        raise SaebenchError(f"A batch of {first.batch} tokens cannot be distributed to {mesh.replicas} replicas.")
    with progress.task("Training", total=first.steps * first.batch, unit="tokens") as advance:
        sample = source.chunk(0)[:SAMPLE_TOKENS]
        trainers = [Trainer(config, sample, mesh) for config in configs]
        pairs = list(zip(trainers, folders, strict=True))
        for trainer, folder in pairs:
            prepare_folder(trainer, folder, resume)
        seconds = _steps(pairs, source, advance)
    for trainer, folder in pairs:
        save(trainer, folder, trainer.record(source, seconds))
    return trainers


def groups(configs: Sequence[TrainingConfig], numbers: Sequence[int], together: int | None = None) -> list[tuple[int, ...]]:
    """Numbers of configurations that train at a time: they share batch, steps and seed.

    Args:
        configs: all of a sweep; ``numbers``: of those that train.
        together: at most this many at a time; None for all that can.
    """
    by_data: dict[tuple[int, int, int], list[int]] = {}
    for number in numbers:
        by_data.setdefault((configs[number].batch, configs[number].steps, configs[number].seed), []).append(number)
    return [
        tuple(members[start : start + (together or len(members))])
        for members in by_data.values()
        for start in range(0, len(members), together or len(members))
    ]


def _steps(pairs: Sequence[tuple[Trainer, Path]], source: ChunkedSource, advance: Advance) -> float:
    """Take all remaining steps, with checkpoints in between.

    Returns:
        Seconds taken.
    """
    trainers = [trainer for trainer, _ in pairs]
    config, start, started = trainers[0].config, min(trainer.step for trainer in trainers), time.perf_counter()
    advance.resize((config.steps - start) * config.batch)
    for number, batch in source.batches(config.batch, config.seed, start):
        if number >= config.steps:
            break
        for trainer, folder in pairs:
            if trainer.step == number:
                _guarded_step(trainer, batch, folder)
                if (number + 1) * config.batch in trainer.config.keep_tokens:
                    keep(trainer, folder, trainer.record(source, time.perf_counter() - started))
        advance(config.batch)
        advance.note(_figures(trainers))
        if (number + 1) % config.checkpoint_every == 0 and number + 1 < config.steps:
            for trainer, folder in pairs:
                save(trainer, folder, trainer.record(source, time.perf_counter() - started))
    return time.perf_counter() - started


def _figures(trainers: Sequence[Trainer]) -> str:
    """The last batch's error and sparsity; of several autoencoders their means."""
    last = [trainer.history[-1] for trainer in trainers if trainer.history]
    if not last:
        return ""
    mse, l0 = (sum(each[place] for each in last) / len(last) for place in (1, 2))
    return f"normalised MSE {mse:.3f}  L0 {l0:.1f}" + (f"  (means of {len(last)})" if len(last) > 1 else "")


def _guarded_step(trainer: Trainer, batch: Tensor, folder: Path) -> None:
    try:
        trainer.train_step(batch)
    except SaebenchError:
        write_state(trainer, folder)
        raise
