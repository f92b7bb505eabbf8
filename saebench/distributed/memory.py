"""Whether a worker's work fits into memory: estimated from configurations, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saebench.errors import SaebenchError

RESERVE = 1.25
"""Factor for what is not counted: the libraries' own memory, activations inside layers, fragmentation."""
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes that a worker needs.

    Attributes:
        model: weights of the language model.
        batch: logits and probabilities of a batch of text, in float32.
        sae: weights of the largest autoencoder, in float32.
        available: what there is for one worker.
    """

    model: int
    batch: int
    sae: int
    available: int

    def together(self) -> int:
        """How many autoencoders fit beside the model.

        Raises:
            SaebenchError: not even one does; the sum is in the message.
        """
        room = self.available / RESERVE - self.model - self.batch
        if room < self.sae:
            parts = (("model", self.model), ("batch", self.batch), ("SAE", self.sae))
            terms = " + ".join(f"{name} {size / GIB:.2f}" for name, size in parts)
            total = sum(size for _, size in parts)
            raise SaebenchError(
                f"A worker needs ({terms}) x {RESERVE} = {RESERVE * total / GIB:.2f} GiB, but has "
                f"{self.available / GIB:.2f}: "
                "use fewer workers on each machine, a smaller --batch or --dtype bfloat16, or larger devices."
            )
        return max(1, int(room // max(self.sae, 1)))


def parameters_of(config: Any) -> int:
    """The number of weights of a language model of this configuration; nothing is allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(each.numel() for each in model.parameters())


def need(config: Any, dtype: str, tokens_per_batch: int, widths: Sequence[tuple[int, int]], available: int) -> Need:
    """The bytes of a worker.

    Args:
        config: of the language model.
        dtype: ``float32``, or else two bytes a weight (``auto`` on a CPU without units for it: four).
        tokens_per_batch: run together.
        widths: ``(d, latents)`` of each autoencoder.
        available: bytes for one worker.
    """
    size = 4 if dtype == "float32" else 2
    logits = 3 * tokens_per_batch * config.vocab_size * 4  # the clean probabilities, the spliced logits, and one copy
    largest = max((8 * d * latents for d, latents in widths), default=0)  # encoder and decoder
    return Need(size * parameters_of(config), logits, largest, available)


def available_memory(device: str | None) -> int:
    """Free bytes of this process's device: of the GPU, or of this machine."""
    import torch

    if device not in (None, "cpu") or (device is None and torch.cuda.is_available()):
        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else 0
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
