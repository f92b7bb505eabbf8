"""Running the layers above a cut again from one position on, with cached keys and values of earlier positions.

An intervention at one position of a row changes nothing before it, so a batch of interventions there needs the layers
above the cut only at that position and at the few compared positions after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.lm.bridge import MODEL_ERRORS, NoCache
from saebench.lm.model import Cut
from saebench.lm.prefix import Prefix

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their largest magnitude, at which a model counts as supporting the cache."""


class Continuation:
    """One row's pass through the layers above a cut, from which later positions can be run again.

    Where the model does not support that with a key-value cache (it has none, or its logits differ), whole rows are
    run again; the numbers are the same.

    Args:
        cut: the language model, cut where activations are replaced.
        outputs: ``[1, position, d_out]``, the activations at ``hook_out``.
        prefix: the result of ``cut.prefix`` for the row.
        cached: whether to use a cache; False where ``cache_trouble`` found a reason against it.

    Attributes:
        logits: ``[1, position, vocabulary]`` of the row with ``outputs`` in place.
    """

    def __init__(self, cut: Cut, outputs: Tensor, prefix: Prefix, cached: bool = True) -> None:
        self._cut, self._outputs, self._prefix = cut, outputs.to(cut.model.dtype), prefix
        self._filled: Any = empty_cache() if cached else None
        self.logits = cut.suffix(self._outputs, prefix, self._filled)

    def outputs(self, start: int, length: int) -> Tensor:
        """``[length, d_out]``: the row's activations from position ``start`` on."""
        return self._outputs[0, start : start + length]

    def run(self, outputs: Tensor, start: int) -> Tensor:
        """Logits with other activations from one position on.

        Args:
            outputs: ``[batch, length, d_out]``, the activations at positions ``start`` to ``start + length``.
            start: the first position that differs.

        Returns:
            ``[batch, length, vocabulary]``.
        """
        batch, length = outputs.shape[:2]
        outputs = outputs.to(self._outputs.dtype)
        if self._filled is None:
            past = self._outputs[:, :start].expand(batch, -1, -1)
            part = _positions(self._prefix, 0, start + length, batch)
            return self._cut.suffix(torch.cat([past, outputs], dim=1), part)[:, start:]
        part = _positions(self._prefix, start, length, batch)
        return self._cut.suffix(outputs, part, self._past(start, batch) if start else empty_cache())

    def _past(self, length: int, batch: int) -> Any:
        """A cache of the first ``length`` positions for a batch."""
        first = self._cut.first_layer_above
        held = layers_of(self._filled, first, self._cut.model.n_layers)
        return cache_of(held, lambda of: of[:, :, :length].expand(batch, -1, -1, -1), first)


KeysAndValues = tuple[Tensor, Tensor]
"""Of a layer, each ``[batch, heads, position, d_head]``."""


def layers_of(cache: Any, first: int, count: int) -> list[KeysAndValues]:
    """What a pass left in a cache, of the layers from ``first`` on; ``count`` is the number of all layers.

    Raises:
        NoCache: it left one of them empty.
    """
    for layer in range(first, count):
        if layer >= len(cache.layers):
            raise NoCache(f"the forward pass left layer {layer} of the cache empty")
    return [(each.keys, each.values) for each in cache.layers[first:count]]


def cache_of(held: Sequence[KeysAndValues], take: Callable[[Tensor], Tensor], skipped: int) -> Any:
    """A cache with what ``take`` makes of keys and values, after ``skipped`` layers that hold as many empty entries.

    Positions and masks are derived from the first layer's cache, so skipped layers need entries too.
    """
    cache = empty_cache()
    for layer, (keys, values) in enumerate(held, start=skipped):
        some = take(keys), take(values)
        if layer == skipped:
            blank = some[0].new_zeros(some[0].shape[0], 1, some[0].shape[2], 1)
            for below in range(skipped):
                cache.update(blank, blank, below)
        cache.update(*some, layer)
    return cache


def cache_trouble(cut: Cut, outputs: Tensor, prefix: Prefix, start: int, length: int) -> str | None:
    """Why rows cannot be continued from a key-value cache; None where they can.

    They can where positions ``start`` to ``start + length`` of a row, run again with a cache, have the row's own logits.

    Args:
        cut: the language model, cut.
        outputs: ``[1, position, d_out]``, the activations at ``hook_out``; ``prefix`` of the same row.
        start: at least 1, so that there is a past; ``length``: positions compared.
    """
    expected = cut.suffix(outputs, prefix)[0, start : start + length].float()
    try:
        kept = Continuation(cut, outputs, prefix)
        found = kept.run(outputs[:, start : start + length], start)[0].float()
    except MODEL_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    difference = float((found - expected).abs().max() / expected.abs().max())
    return None if difference <= TOLERANCE else f"its logits differ by {difference:.1e} of the largest"


def empty_cache() -> Any:
    """A key-value cache without entries."""
    from transformers import DynamicCache

    return DynamicCache()


def _positions(prefix: Prefix, start: int, length: int, batch: int) -> Prefix:
    """Some positions of a row's prefix, for each of a batch (nothing is copied)."""

    def part(tensor: Tensor) -> Tensor:
        return tensor[:, start : start + length].expand(batch, *(-1 for _ in tensor.shape[1:]))

    return Prefix(part(prefix.tokens), part(prefix.inputs), part(prefix.outputs), part(prefix.residual))
