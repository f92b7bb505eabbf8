"""How saebench reaches into a bridged model: hooks that end a forward pass early, blocks that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from saebench.errors import SaebenchError

HookFunctions = list[tuple[str, Callable[..., Tensor | None]]]


class Stop(Exception):
    """Raised in a hook to leave the forward pass once everything wanted was seen."""


class PassThrough(nn.Module):
    """Stands in for a block: returns what it is given, or a residual stream in its place."""

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
    """The wrapped model's own list of blocks, whose entries the bridge replaced by its own."""
    first = bridge.blocks[0]
    for module in bridge.original_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(bridge.blocks) and module[0] is first:
            return module
    raise SaebenchError(
        f"TransformerLens bridges {type(bridge.original_model).__name__} without a plain stack of blocks; "
        "saebench needs one."
    )
