"""What the layers below a cut make of tokens, and what an autoencoder reads of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class ContextReader(Protocol):
    """What an autoencoder reads of whole rows: it may look at earlier tokens.

    Attributes:
        key: distinguishes it from others, for what is cached.
    """

    @property
    def key(self) -> str:
        """See above."""

    def read(self, activations: Tensor, visible: Tensor | None) -> Tensor:
        """``[batch, position, d_in]`` from activations ``[batch, position, d]`` at the hook.

        ``visible`` (``[batch, position, position]`` bool) says what each position attends to, if not all up to it.
        """


@dataclass(frozen=True)
class Prefix:
    """The activations of the layers up to the cut for a batch of tokens.

    Attributes:
        tokens: ``[batch, position]``.
        inputs: ``[batch, position, d_in]``, activations at ``hook_in`` or what the cut's context made of them, which an
            autoencoder reads.
        outputs: ``[batch, position, d_out]``, activations at ``hook_out``, which its reconstruction replaces.
        residual: ``[batch, position, d_model]``, the residual stream where the suffix starts.
    """

    tokens: Tensor
    inputs: Tensor
    outputs: Tensor
    residual: Tensor

    def rows(self, selection: Tensor, start: int = 0) -> Prefix:
        """Some rows of the batch, from position ``start`` on."""
        return Prefix(*(each[selection, start:] for each in (self.tokens, self.inputs, self.outputs, self.residual)))
