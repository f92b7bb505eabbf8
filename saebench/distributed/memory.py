"""Whether a worker's work fits into memory: estimated from configurations, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saebench.distributed.pools import gpus_of
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.lm.placement import GIB, RESERVE, free_memory, outline_of, pick_devices
from saebench.training.config import TrainingConfig

COPIES = 5
"""Of a trained weight, in float32: itself, its gradient, Adam's two moments, and its average."""
RANKED = ("batchtopk", "matryoshka")
"""Architectures that rank all pre-activations of a batch together."""
BYTES_OF_ENTRY, BYTES_OF_RANKED = 12, 88
"""For each pre-activation of a batch; measured on a CPU at n = 16,384, d = 512 and 2,048 tokens, rounded up."""


@dataclass(frozen=True)
class Need:
    """Bytes that a worker needs.

    Attributes:
        model: weights of the language model.
        batch: what is computed of a batch of text, for all autoencoders.
        sae: what the largest autoencoder needs, beside others.
        available: what there is for one worker, on all of its devices.
        first: of it, on the first device, which has the autoencoders and ``rest``; None where that is all.
        rest: weights of the language model that are not in blocks.
    """

    model: int
    batch: int
    sae: int
    available: int
    first: int | None = None
    rest: int = 0

    def together(self, least: int = 1) -> int:
        """How many autoencoders fit.

        Raises:
            SaebenchError: not even ``least`` do; the sum is in the message.
        """
        room = self.available / RESERVE - self.model - self.batch
        if self.first is not None:
            room = min(room, self.first / RESERVE - self.rest - self.batch)
        if room < least * self.sae:
            raise SaebenchError(self._refusal(least))
        return max(least, int(room // max(self.sae, 1)))

    def _refusal(self, least: int) -> str:
        terms = f"model {self.model / GIB:.2f} + batch {self.batch / GIB:.2f} + SAE {self.sae / GIB:.2f}"
        if least > 1:
            terms = terms.replace("+ SAE", f"+ {least} x SAE")
        total = RESERVE * (self.model + self.batch + least * self.sae)
        on_first = (
            f" (on the first device {self.first / GIB:.2f}, for embeddings {self.rest / GIB:.2f}, batch and SAE)"
            if self.first is not None
            else ""
        )
        model = "several devices for each (--device all), " if self.model else ""
        return (
            f"A worker needs ({terms}) x {RESERVE} = {total / GIB:.2f} GiB, but has {self.available / GIB:.2f}{on_first}: "
            f"use fewer workers on each machine, {model}a smaller batch"
            f"{' or --dtype bfloat16' if self.model else ', fewer members together'}, or larger devices."
        )


def need(
    config: Any,
    dtype: str,
    tokens_per_batch: int,
    widths: Sequence[tuple[int, int]],
    available: Sequence[int],
    kept: int = 0,
) -> Need:
    """The bytes of a worker that evaluates.

    Args:
        config: of the language model.
        dtype: ``float32``, or else two bytes a weight (``auto`` on a CPU without units for it: four).
        tokens_per_batch: for which logits are made together; 0 where none are.
        widths: ``(d, latents)`` of each autoencoder.
        available: bytes of each device of one worker.
        kept: bytes that are collected for each latent.
    """
    size, outline = 4 if dtype == "float32" else 2, outline_of(config)
    logits = 3 * tokens_per_batch * config.vocab_size * 4  # the clean probabilities, the spliced logits, and one copy
    largest = max(((8 * d + kept) * latents for d, latents in widths), default=0)  # encoder and decoder in float32
    first = available[0] if len(available) > 1 else None
    return Need(size * outline.weights, logits, largest, sum(available), first, size * outline.rest)


def need_of_training(configs: Sequence[TrainingConfig], d: int, available: Sequence[int]) -> Need:
    """The bytes of a worker that trains: no language model, and the largest member's weights, their copies and gradients.

    A batch counts as its activations ``[batch, d]``, and pre-activations ``[batch, n]`` with what is made of them.
    """
    entries = max(each.batch * each.n * (BYTES_OF_RANKED if each.arch in RANKED else BYTES_OF_ENTRY) for each in configs)
    batch = max(each.batch for each in configs) * d * 4 + entries
    return Need(0, batch, COPIES * 2 * max(each.n for each in configs) * d * 4, sum(available[:1]))


def worker_memory(workers: Workers, device: str | None) -> tuple[int, ...]:
    """Free bytes for one worker, on each of its devices. On Ray those of this machine, which is taken to be like the others.

    Raises:
        SaebenchError: torch cannot use the device.
    """
    if workers.memory is not None:
        return (workers.memory,)
    count = (workers.count or 1) if workers.on == "local" else 1
    groups = gpus_of(device, count)
    names = [f"cuda:{each}" for each in groups[0]] or pick_devices(device)
    sharing = groups.count(groups[0])  # workers that have the same devices
    return tuple(free_memory(name) // sharing for name in names)
