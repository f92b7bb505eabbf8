"""The layers below the hook over prompts: run once for all attributes and autoencoders, as far as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saebench.evaluators.entities.data import Prompt
from saebench.evaluators.entities.pairs import by_length
from saebench.lm import Cut, Prefix

KEPT = 2**28
"""Numbers of the prompts' activations that are kept: 1 GiB. Where there are more, they are computed whenever asked for."""


class Passes:
    """What the layers below the hook make of prompts.

    Args:
        cut: the language model, cut.
        prompts: all prompts.
        wanted: numbers of those that will be asked for.
        progress: called with the number of prompts of each batch, where they are run now.
    """

    def __init__(
        self, cut: Cut, prompts: Sequence[Prompt], wanted: Sequence[int], progress: Callable[[float], Any] = lambda n: None
    ) -> None:
        self.cut, self.prompts = cut, prompts
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        numbers = sorted(set(wanted))
        size = 3 * cut.d_out * sum(len(prompts[number].ids) for number in numbers)
        for batch in by_length(prompts, numbers) if size <= KEPT else ():
            prefix = self._run([numbers[place] for place in batch])
            for row, place in enumerate(batch):
                self._kept[numbers[place]] = tuple(each[row] for each in (prefix.inputs, prefix.outputs, prefix.residual))
            progress(len(batch))

    def of(self, numbers: Sequence[int]) -> Prefix:
        """Those of some prompts, padded on the right, where causal attention does not see the padding."""
        if any(number not in self._kept for number in numbers):
            return self._run(numbers)
        kept = [self._kept[number] for number in numbers]
        return Prefix(
            self._tokens(numbers), *(pad_sequence(list(each), batch_first=True) for each in zip(*kept, strict=True))
        )

    def _run(self, numbers: Sequence[int]) -> Prefix:
        return self.cut.prefix(self._tokens(numbers))

    def _tokens(self, numbers: Sequence[int]) -> Tensor:
        """``[prompts, position]`` on the model's device."""
        rows = [torch.tensor(self.prompts[number].ids) for number in numbers]
        return pad_sequence(rows, batch_first=True).to(self.cut.model.device)
