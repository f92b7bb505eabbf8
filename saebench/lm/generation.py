"""Greedy continuation of prompts, with the activations at a cut replaced."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from saebench.lm.ends import end_logits
from saebench.lm.model import Cut, Prefix


@torch.no_grad()
def generate(cut: Cut, tokens: Tensor, steps: int, outputs: Tensor | None = None, prefix: Prefix | None = None) -> Tensor:
    """The ``steps`` most likely tokens after each prompt, one after the other: ``[batch, steps]``.

    Args:
        cut: the language model, cut where activations are replaced.
        tokens: ``[batch, position]``, prompts of one length.
        steps: number of tokens.
        outputs: ``[batch, position, d_out]``, the activations that replace those at the cut, if they are replaced;
            ``prefix`` is that of these tokens.
        prefix: see ``outputs``.
    """
    from transformers import DynamicCache

    model = cut.model
    tokens = tokens.to(model.device)
    if model.cache_argument is None:
        return _without_cache(cut, tokens, steps, outputs)
    hooks = [] if outputs is None or prefix is None else cut.replacing(outputs.to(model.dtype), prefix)
    cache = DynamicCache()
    found = []
    step = tokens
    for _ in range(steps):
        step = end_logits(model, -1, partial(model.run, step, hooks, cache)).argmax(dim=-1, keepdim=True)
        found.append(step)
        hooks = []
    return torch.cat(found, dim=1)


def _without_cache(cut: Cut, tokens: Tensor, steps: int, outputs: Tensor | None) -> Tensor:
    """The same where the model accepts no cache: the whole row runs for each token."""
    length = tokens.shape[1]
    for _ in range(steps):
        prefix = cut.prefix(tokens)
        replaced = prefix.outputs
        if outputs is not None:
            replaced = torch.cat([outputs.to(replaced.dtype), replaced[:, length:]], dim=1)
        step = end_logits(cut.model, -1, partial(cut.suffix, replaced, prefix)).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, step], dim=1)
    return tokens[:, length:]
