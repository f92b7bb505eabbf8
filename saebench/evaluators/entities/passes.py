"""The layers below the hook over prompts: run once for all attributes and autoencoders, as far as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saebench.evaluators.entities.data import Prompt
from saebench.lm import Prefix
from saebench.lm.prompts import Prompts

KEPT = 2**28
"""Numbers of the prompts' activations that are kept: 1 GiB. Where there are more, they are computed whenever asked for."""


class Passes:
    """What the layers below the hook make of prompts.

    Args:
        prompts: all prompts; ``rows``: their tokens.
        rows: see above.
        wanted: numbers of those that will be asked for.
        progress: called with the number of prompts of each batch, where they are run now.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        rows: Prompts,
        wanted: Sequence[int],
        progress: Callable[[float], Any] = lambda n: None,
    ) -> None:
        self.prompts, self.rows = prompts, rows
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        numbers = sorted(set(wanted))
        size = 3 * rows.cut.d_out * sum(len(prompts[number].ids) for number in numbers)
        for batch in rows.batches(numbers) if size <= KEPT else ():
            some = [numbers[place] for place in batch]
            self._kept |= dict(zip(some, self._run(some), strict=True))
            progress(len(batch))

    def of(self, numbers: Sequence[int]) -> Prefix:
        """Those of some prompts' tails, padded on the right, where causal attention does not see the padding."""
        known = all(number in self._kept for number in numbers)
        found = [self._kept[number] for number in numbers] if known else self._run(numbers)
        return Prefix(
            self.rows.tails(numbers), *(pad_sequence(list(each), batch_first=True) for each in zip(*found, strict=True))
        )

    def _run(self, numbers: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Of each tail: inputs, outputs and residual stream."""
        ids = [torch.tensor(self.prompts[number].ids) for number in numbers]
        prefix = self.rows.cut.prefix(pad_sequence(ids, batch_first=True))
        parts = [slice(self.rows.start(number), len(row)) for number, row in zip(numbers, ids, strict=True)]
        return [
            tuple(each[row, part].clone() for each in (prefix.inputs, prefix.outputs, prefix.residual))
            for row, part in enumerate(parts)
        ]
