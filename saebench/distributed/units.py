"""Units of work: some autoencoders of a hook on a shard of the text, then the end of their evaluation.

Work that is not divided by text, such as training, has a unit of the second kind alone.

The shards depend on the text alone, never on the number of workers, and begin where a single process begins a batch: every
row is evaluated in the same batch, so results are the same for any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

SHARD_TOKENS = 16_384
"""Tokens of a shard: a minute of work or less on a GPU, so that little is lost with a worker."""


@dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes:
        saes: numbers of the autoencoders; those of a shard are of one hook.
        rows: first row of the shard and the row after its last one; None for work on the whole text, such as the end of an
            evaluation, which merges the sums of all shards.
        control: what a control is made from, as JSON, where the unit evaluates it instead: the autoencoder is one of those
            that share it, and gives model and hook.
    """

    saes: tuple[int, ...]
    rows: tuple[int, int] | None
    control: str = ""

    def alone(self) -> list[Unit]:
        """The same work, one autoencoder at a time."""
        return [Unit((each,), self.rows) for each in self.saes]


@dataclass
class Done:
    """What a unit gave.

    Attributes:
        tensors: sums by path; those of the language model alone begin with ``shared``, others with the autoencoder's number.
        results: of work on the whole text: each autoencoder's result, or its control's, as JSON.
        wants: of the first shard: the controls that an autoencoder is compared with, as ``Unit.control``, by number.
        rejected: why an autoencoder could not be read or evaluated, by number.
        failures: why an evaluator failed, by ``number/evaluator``.
        seconds: by stage.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    results: dict[int, str] = field(default_factory=dict)
    wants: dict[int, list[str]] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As a safetensors file, with everything else as JSON in its metadata. Nothing is pickled."""
        words = {name: getattr(self, name) for name in ("results", "wants", "rejected", "failures", "seconds")}
        tensors = {name: each.contiguous().clone() for name, each in self.tensors.items()} or {"none": torch.zeros(0)}
        return bytes(save(tensors, {"saebench": json.dumps(words)}))

    @classmethod
    def from_bytes(cls, content: bytes) -> Done:
        """From ``to_bytes``."""
        size = int.from_bytes(content[:8], "little")
        words: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["saebench"])
        numbered = {name: {int(key): each for key, each in words[name].items()} for name in ("results", "wants", "rejected")}
        return cls(load(content), failures=words["failures"], seconds=words["seconds"], **numbered)

    @classmethod
    def joined(cls, contents: Sequence[bytes]) -> Done:
        """The units of one shard together; their sums of the language model are the same."""
        found = cls()
        for each in map(cls.from_bytes, contents):
            found.tensors |= each.tensors
            found.failures |= each.failures
            found.seconds = {name: found.seconds.get(name, 0.0) + value for name, value in each.seconds.items()}
        return found


def shards(rows: int, context: int, rows_per_batch: int) -> list[tuple[int, int]]:
    """The shards of a text: runs of whole batches, a power of two of them, of about ``SHARD_TOKENS`` tokens."""
    batches = max(1, SHARD_TOKENS // max(1, context * rows_per_batch))
    size = rows_per_batch * 2 ** (batches.bit_length() - 1)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def packs(numbers: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Autoencoders that fit into memory together, as evenly filled as possible."""
    count = -(-len(numbers) // most)
    size = -(-len(numbers) // count)
    return [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]
