"""Temporal autoencoders: attention over earlier tokens predicts a part of an activation, latents encode the rest.

An autoencoder encodes tokens one by one, in batches that leave tokens out. So the prediction is made where rows are
whole, in the cut of the language model: ``TemporalContext.read`` appends it to each activation. Of this pair ``[x, p]``
the autoencoder is an ordinary one: it encodes ``x - p`` and its skip connection adds ``p`` to the reconstruction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae.scaling import InputScaling

ELEMENTS = 2**24
"""Rows times tokens times latents that are computed together."""
SMALLEST_NORM = 1e-6


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """Attention among codes: ``[n, n]`` for values and output, ``[e, n]`` for keys and queries, with biases."""

    key: Tensor
    key_bias: Tensor
    query: Tensor
    query_bias: Tensor
    value: Tensor
    value_bias: Tensor
    output: Tensor
    output_bias: Tensor

    @staticmethod
    def shapes(n_latents: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of each weight."""
        wide, narrow = (n_latents, n_latents), (width, n_latents)
        return {
            "key": narrow, "key_bias": (width,), "query": narrow, "query_bias": (width,), "value": wide,
            "value_bias": (n_latents,), "output": wide, "output_bias": (n_latents,),
        }  # fmt: skip

    def predict(self, codes: Tensor, previous: Tensor, visible: Tensor | None, heads: int) -> Tensor:
        """``[batch, position, n]``: queries from ``codes``, keys and values from the ``previous`` token's codes."""

        def divided(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            mapped: Tensor = x @ weight.to(x.dtype).T + bias.to(x.dtype)
            return mapped.view(*mapped.shape[:2], heads, -1).transpose(1, 2)

        query = divided(codes, self.query, self.query_bias)
        key, value = divided(previous, self.key, self.key_bias), divided(previous, self.value, self.value_bias)
        mask = None if visible is None else visible.unsqueeze(1)
        mixed: Tensor = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=visible is None)
        return mixed.transpose(1, 2).flatten(2) @ self.output.to(codes.dtype).T + self.output_bias.to(codes.dtype)


@dataclass(frozen=True, eq=False)
class TemporalContext:
    """Predicts activations from the tokens before them (Lubana et al. 2025, "Priors in time").

    With ``r = scale(x) - b_pre``, each layer computes codes ``z = relu(r @ W_enc)``, attends from a token's ``z`` to those
    of the tokens before it, ``q = relu(attention)``, and removes from ``r`` its projection on ``q @ W_dec``. The
    prediction is all that was removed.

    Attributes:
        W_enc: ``[d, n]``; ``W_dec``: ``[n, d]``.
        b_pre: ``[d]`` or None.
        scaling: ``none`` or ``dataset``.
        layers: applied one after the other.
        heads: of each layer.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_pre: Tensor | None
    scaling: InputScaling
    layers: tuple[AttentionLayer, ...]
    heads: int

    def __post_init__(self) -> None:
        n = self.W_dec.shape[0]
        for number, layer in enumerate(self.layers):
            width = layer.key_bias.numel()
            if self.heads < 1 or n % self.heads or not width or width % self.heads:
                raise SaebenchError(
                    f"Attention layer {number} has {self.heads} heads, which do not divide {n} latents and keys of {width}."
                )
            for name, shape in AttentionLayer.shapes(n, width).items():
                found = tuple(getattr(layer, name).shape)
                if found != shape:
                    raise SaebenchError(f"Attention layer {number}: {name} has shape {list(found)}, not {list(shape)}.")
        if self.scaling.kind not in ("none", "dataset"):
            raise SaebenchError(
                f"A temporal autoencoder normalises its input by {self.scaling.kind}; saebench reads those with one factor "
                "for all tokens."
            )

    @property
    def width(self) -> int:
        """Width of the activations at the hook; what ``read`` returns is twice as wide."""
        return self.W_dec.shape[1]

    @property
    def key(self) -> str:
        """A hash of the weights, to distinguish what was cached."""
        digest = hashlib.sha256(f"{self.scaling}{self.heads}".encode())
        parts = [self.W_enc, self.W_dec, *([] if self.b_pre is None else [self.b_pre]), *(t for _, t in self.tensors())]
        for tensor in parts:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def read(self, activations: Tensor, visible: Tensor | None = None) -> Tensor:
        """Activations with their predictions: ``[batch, position, 2 d]`` float32, both in the model's own units.

        Args:
            activations: ``[batch, position, d]`` of whole rows.
            visible: ``[batch, position, position]`` bool, the positions of each position's own text up to it (texts can
                share a beginning); all positions up to it by default.

        Raises:
            SaebenchError: the activations are of another width.
        """
        if activations.shape[-1] != self.width:
            raise SaebenchError(
                f"The autoencoder reads activations of width {self.width}, but its hook has {activations.shape[-1]}."
            )
        x = activations.to(self.W_dec.device).float()
        seen = None if visible is None else visible.to(x.device)
        size = max(1, ELEMENTS // max(1, x.shape[1] * self.W_dec.shape[0]))
        parts = [
            self._predict(x[i : i + size], None if seen is None else seen[i : i + size]) for i in range(0, len(x), size)
        ]
        return torch.cat([x, torch.cat(parts)], dim=-1)

    def _predict(self, x: Tensor, visible: Tensor | None) -> Tensor:
        start = x * self.scaling.input_scale
        if self.b_pre is not None:
            start = start - self.b_pre.float()
        residual, W_enc, W_dec = start, self.W_enc.float(), self.W_dec.float()
        for layer in self.layers:
            codes = (residual @ W_enc).relu()
            predicted = layer.predict(codes, _previous(codes, visible), visible, self.heads).relu() @ W_dec
            norm = torch.linalg.vector_norm(predicted, dim=-1, keepdim=True) + SMALLEST_NORM
            residual = residual - (predicted * residual).sum(dim=-1, keepdim=True) / norm.square() * predicted
        return (start - residual) / self.scaling.output_scale

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that the autoencoder itself does not have, by the name they are saved under."""
        for number, layer in enumerate(self.layers):
            for each in fields(layer):
                yield f"attention.{number}.{each.name}", getattr(layer, each.name)

    def to(self, device: torch.device | str) -> TemporalContext:
        """The same on another device."""
        layers = tuple(
            AttentionLayer(**{each.name: getattr(layer, each.name).to(device) for each in fields(layer)})
            for layer in self.layers
        )
        b_pre = None if self.b_pre is None else self.b_pre.to(device)
        return replace(self, W_enc=self.W_enc.to(device), W_dec=self.W_dec.to(device), b_pre=b_pre, layers=layers)


def _previous(codes: Tensor, visible: Tensor | None) -> Tensor:
    """The codes of the token before each one in its text, 0 for the first."""
    if visible is None:
        return F.pad(codes[:, :-1], (0, 0, 1, 0))
    depth = visible.sum(dim=-1)  # a token's place in its own text, from 1 on
    others = visible & ~torch.eye(visible.shape[-1], dtype=torch.bool, device=visible.device)
    parent = torch.where(others, depth.unsqueeze(1), 0).argmax(dim=-1)
    before = codes.gather(1, parent.unsqueeze(-1).expand_as(codes))
    return before * others.any(dim=-1).unsqueeze(-1)
