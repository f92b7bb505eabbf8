"""Access to the internals of a bridged model: what hooks read and write, skipped blocks, the key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SaebenchError
from saebench.lm.hooks import Hook, Place

HookFunctions = list[tuple[str, Callable[..., Tensor | None]]]


class Stop(Exception):
    """Raised in a hook to end the forward pass once all wanted activations were read."""


class NoCache(Exception):
    """A model does not accept a key-value cache, or does not fill it as expected."""


MODEL_ERRORS = (NoCache, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors that an architecture raises for a cache or an attention mask that it does not support."""


class PassThrough(nn.Module):
    """Replaces a block: returns its input, or a given residual stream."""

    def __init__(self, block: nn.Module, residual: Tensor | None) -> None:
        super().__init__()
        self.__dict__["_block"] = block  # kept out of the module tree
        self.__dict__["_residual"] = residual

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_block"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The block's output type is a plain tensor in every architecture of transformers 5."""
        residual: Tensor | None = self.__dict__["_residual"]
        return hidden_states if residual is None else residual


def find_layers(bridge: Any) -> nn.ModuleList:
    """The wrapped model's list of blocks, whose entries the bridge replaced."""
    first = bridge.blocks[0]
    for module in bridge.original_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(bridge.blocks) and module[0] is first:
            return module
    raise SaebenchError(
        f"TransformerLens bridges {type(bridge.original_model).__name__} without a plain stack of blocks; "
        "saebench needs one."
    )


CACHE_ARGUMENTS = ("cache", "past_key_values")
"""Names of the forward argument for the key-value cache: in transformers from 5.24 on, and before."""


def cache_argument(model: nn.Module) -> str | None:
    """The forward argument with which a Hugging Face model accepts a key-value cache; None where it accepts none.

    Continuing a row from a cache depends on the following, here and in ``saebench.lm.continuation`` only:

    - the forward pass accepts a ``transformers.DynamicCache`` under one of ``CACHE_ARGUMENTS``, and ``use_cache``;
    - ``DynamicCache.update(keys, values, layer)`` appends, and ``DynamicCache.layers[i].keys`` and ``.values`` hold
      ``[batch, heads, position, d_head]``;
    - positions and masks of new tokens follow from the length of the first layer's cache;
    - TransformerLens's attention takes the cache as ``past_key_values`` or ``layer_past`` (see ``rename_cache``).
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), None)


def rename_cache(bridge: Any) -> None:
    """Pass the cache that transformers 5.24 and later call ``cache`` to the attention of TransformerLens 4.3.

    TransformerLens reads ``past_key_values`` alone and would ignore the cache without an error.
    """

    def rename(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "cache" in kwargs and kwargs.get("past_key_values") is None:
            kwargs = {name: value for name, value in kwargs.items() if name != "cache"} | {
                "past_key_values": kwargs["cache"]
            }
        return args, kwargs

    for block in bridge.blocks:
        attention = getattr(block, "attn", None)
        if isinstance(attention, nn.Module):
            attention.register_forward_pre_hook(rename, with_kwargs=True)


def replacement(outputs: Tensor, shape: torch.Size, head: int | None) -> Callable[..., Tensor]:
    """A hook that puts ``outputs`` (``[batch, position, width]``) in place of activations, or of one attention head's.

    ``shape`` is the activations' own, without batch and position.
    """
    shaped = outputs.unflatten(2, shape) if len(shape) > 1 and head is None else outputs

    def put(activation: Tensor, hook: Any) -> Tensor:
        if head is None:
            return shaped.to(activation.device)
        changed = activation.clone()  # the other heads keep their own activations
        changed[:, :, head] = outputs
        return changed

    return put


def only_at(part: str, shape: torch.Size, rows: Tensor, places: Tensor) -> HookFunctions:
    """Hooks that run a part only at some positions, ``rows`` and ``places`` of ``shape``; its output is zero elsewhere."""

    def narrow(activation: Tensor, hook: Any) -> Tensor:
        return activation[rows.to(activation.device), places.to(activation.device)].unsqueeze(0)

    def widen(activation: Tensor, hook: Any) -> Tensor:
        wide = activation.new_zeros(*shape, activation.shape[-1])
        wide[rows.to(wide.device), places.to(wide.device)] = activation[0]
        return wide

    return [(f"{part}.hook_in", narrow), (f"{part}.hook_out", widen)]


def side_by_side(seen: dict[str, Tensor], place: Place) -> Tensor:
    """``[batch, position, width]``: the activations of a place, or of several side by side."""
    found = [of_head(seen[hook.whole], hook) for hook in place.hooks]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def of_head(activation: Tensor, hook: Hook) -> Tensor:
    """``[batch, position, width]``: all heads side by side, or the hook's one.

    Raises:
        SaebenchError: the activations at the hook are not divided into heads, or there is no such head.
    """
    if hook.head is None:
        return activation.flatten(2)
    if activation.ndim != 4:
        raise SaebenchError(f"{hook.whole} is not divided into attention heads: there is no {hook}.")
    if hook.head >= activation.shape[2]:
        raise SaebenchError(f"The model has no {hook}: its heads there are 0 to {activation.shape[2] - 1}.")
    return activation[:, :, hook.head]
