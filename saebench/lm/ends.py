"""Logits at one position of each row: the unembedding, as large as many blocks together, runs there alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saebench.lm.model import LanguageModel


def end_logits(model: LanguageModel, ends: Tensor | int, run: Callable[[], Tensor | None]) -> Tensor:
    """The logits ``[batch, vocabulary]`` at one position of each row of a pass through the model.

    Args:
        model: the language model.
        ends: ``[batch]``, the positions; or one for all rows, -1 for the last.
        run: makes the pass, and returns its logits.
    """
    unembedding = getattr(getattr(model.bridge, "unembed", None), "original_component", None)
    reached = False

    def pick(of: Tensor) -> Tensor:
        places = torch.full((of.shape[0],), ends) if isinstance(ends, int) else ends
        return of[torch.arange(of.shape[0], device=of.device), places.to(of.device)]

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal reached
        reached = True
        return (pick(inputs[0]).unsqueeze(1), *inputs[1:])

    handle = unembedding.register_forward_pre_hook(before) if isinstance(unembedding, nn.Linear) else None
    try:
        logits = run()
    finally:
        if handle is not None:
            handle.remove()
    assert logits is not None
    return logits[:, 0] if reached else pick(logits)
