"""The sparse autoencoder that every checkpoint format is read into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae.activations import Activation
from saebench.sae.info import CheckpointInfo
from saebench.sae.latents import SparseLatents
from saebench.sae.pursuit import MatchingPursuit
from saebench.sae.scaling import InputScaling, Scaled
from saebench.sae.temporal import TemporalContext

PRE_ACTIVATION_BUDGET = 2**24
"""The most pre-activations held at once (64 MiB in float32). More tokens mean narrower chunks of latents."""

SMALLEST_CHUNK = 2048
"""Narrower chunks of latents make the matrix product inefficient: the block of tokens is split instead."""


@runtime_checkable
class Autoencoder(Protocol):
    """The interface that evaluators require. ``SparseAutoencoder`` has it; ``wrap`` gives it to other objects."""

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""

    @property
    def d_out(self) -> int:
        """Width of the activations it writes."""

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""

    @property
    def info(self) -> CheckpointInfo:
        """Where it comes from."""

    def encode(self, x: Tensor) -> SparseLatents:
        """The code of activations ``[tokens, d_in]``."""

    def decode(self, latents: SparseLatents, x: Tensor) -> Tensor:
        """Reconstructions ``[tokens, d_out]``; ``x`` is the encoded input (a skip connection reads it)."""


@dataclass(frozen=True)
class SparseAutoencoder:
    """``z = activation(scale(x - b_pre) @ W_enc + b_enc)``, reconstruction ``z @ W_dec + b_dec (+ x @ W_skip)``, unscaled.

    Attributes:
        W_enc: ``[d_in, n]``; any strides (formats that store ``[n, d_in]`` are viewed, not copied).
        W_dec: ``[n, d_out]``, contiguous rows.
        b_enc: ``[n]``.
        b_dec: ``[d_out]``.
        activation: which latents are active, and how strongly.
        b_pre: ``[d_in]``, subtracted from the scaled input before the product, or None.
        W_skip: ``[d_in, d_out]``, a linear skip connection, or None.
        scaling: input scaling, undone on decoding.
        info: where the weights come from.
        context: what reads whole rows and gives the autoencoder its ``[tokens, d_in]``, where it looks at earlier tokens
            (the language model is cut with it); else None, and it reads activations themselves.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    activation: Activation
    info: CheckpointInfo
    b_pre: Tensor | None = None
    W_skip: Tensor | None = None
    scaling: InputScaling = field(default_factory=InputScaling)
    context: TemporalContext | None = None

    def __post_init__(self) -> None:
        n, d_in, d_out = self.n_latents, self.d_in, self.d_out
        expected = {
            "W_enc": (self.W_enc, (d_in, n)),
            "W_dec": (self.W_dec, (n, d_out)),
            "b_enc": (self.b_enc, (n,)),
            "b_dec": (self.b_dec, (d_out,)),
            "b_pre": (self.b_pre, (d_in,)),
            "W_skip": (self.W_skip, (d_in, d_out)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise SaebenchError(
                    f"The checkpoint's {name} has shape {list(tensor.shape)}, but its other weights require {list(shape)}."
                )
        if n == 0 or d_in == 0 or d_out == 0:
            raise SaebenchError(f"The autoencoder is empty: d = {d_in}, n = {n}.")
        self.activation.check(n)
        if not self.W_dec.is_contiguous():
            object.__setattr__(self, "W_dec", self.W_dec.contiguous())

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the activations it writes."""
        return self.W_dec.shape[1]

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> SparseLatents:
        """The code of activations ``x`` (``[tokens, d_in]``), in bounded memory at any width of the dictionary."""
        most = max(1, PRE_ACTIVATION_BUDGET // min(SMALLEST_CHUNK, self.n_latents))
        if x.shape[0] > most:
            return _join([self.encode(block) for block in x.split(most)])
        scaled, centred = self._prepare(x)
        if isinstance(self.activation, MatchingPursuit):
            indices, values = self.activation.pursue(centred, self.W_dec)
        else:
            selection = self.activation.select(x.shape[0], self.n_latents)
            for start, stop in self._chunks(x.shape[0]):
                selection.add(self._product(centred, start, stop), start)
            indices, values = selection.result()
        return SparseLatents(indices, values, self.n_latents, scaled.shift, scaled.factor)

    def decode(self, latents: SparseLatents, x: Tensor | None = None) -> Tensor:
        """Reconstructions ``[tokens, d_out]`` in the model's own units.

        ``x`` (``[tokens, d_in]``) is needed by autoencoders with a skip connection only.
        """
        out = self.decode_sparse(latents) + self.b_dec.to(latents.values.dtype)
        if latents.factor is not None:
            out = out * latents.factor
        if latents.shift is not None:
            out = out + latents.shift
        if self.W_skip is not None:
            if x is None:
                raise ValueError("This autoencoder has a skip connection: decode needs the activations that were encoded.")
            out = out + x.to(out.dtype) @ self.W_skip.to(out.dtype)
        return out

    def decode_sparse(self, latents: SparseLatents) -> Tensor:
        """``z @ W_dec`` alone, ``[tokens, d_out]``: no bias, no skip connection, no unscaling."""
        if latents.indices.shape[-1] == 0:
            return latents.values.new_zeros(latents.indices.shape[0], self.d_out)
        weights = latents.values.to(self.W_dec.dtype)
        bag = F.embedding_bag(latents.indices, self.W_dec, per_sample_weights=weights, mode="sum")
        return bag.to(latents.values.dtype)

    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The activation function's input for latents ``start`` to ``stop``: ``[tokens, stop - start]``."""
        return self._product(self._prepare(x)[1], start, stop)

    def pre_activations_of(self, x: Tensor, latents: Tensor) -> Tensor:
        """The activation function's input for some ``latents``: ``[tokens, latents]``."""
        centred = self._prepare(x)[1]
        return torch.addmm(self.b_enc[latents].to(centred.dtype), centred, self.W_enc[:, latents].to(centred.dtype))

    def prefix(self, n_latents: int) -> SparseAutoencoder:
        """The autoencoder of the first ``n_latents`` latents (Matryoshka autoencoders are trained to support this)."""
        return replace(
            self,
            W_enc=self.W_enc[:, :n_latents],
            W_dec=self.W_dec[:n_latents],
            b_enc=self.b_enc[:n_latents],
            activation=self.activation.prefix(n_latents),
            info=replace(self.info, n_latents=n_latents),
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight with its name, the activation function's included."""
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "b_pre", "W_skip"):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor
        yield from self.activation.parameters().items()
        if self.context is not None:
            yield from self.context.tensors()

    def check_finite(self) -> None:
        """Raise ``SaebenchError`` where a weight is NaN or infinite; reads the weights in bounded memory."""
        for name, tensor in self.tensors():
            for part in tensor.split(max(1, PRE_ACTIVATION_BUDGET // max(1, tensor[0].numel()))):
                if not torch.isfinite(part.sum(dtype=torch.float64)) and not torch.isfinite(part).all():
                    raise SaebenchError(
                        f"The checkpoint's {name} holds NaN or infinite values: it is damaged or its training diverged."
                    )

    def to(self, device: torch.device | str) -> SparseAutoencoder:
        """The same autoencoder on another device."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)}
        context = None if self.context is None else self.context.to(device)
        return replace(self, **moved, activation=self.activation.to(device), context=context)

    def _prepare(self, x: Tensor) -> tuple[Scaled, Tensor]:
        scaled = self.scaling.apply(x.to(self._compute_dtype))
        centred = scaled.activations if self.b_pre is None else scaled.activations - self.b_pre.to(self._compute_dtype)
        return scaled, centred

    @property
    def _compute_dtype(self) -> torch.dtype:
        return torch.float64 if self.W_enc.dtype == torch.float64 else torch.float32

    def _product(self, centred: Tensor, start: int, stop: int) -> Tensor:
        bias = self.b_enc[start:stop].to(centred.dtype)
        return torch.addmm(bias, centred, self.W_enc[:, start:stop].to(centred.dtype))

    def _chunks(self, tokens: int) -> Iterator[tuple[int, int]]:
        size = max(SMALLEST_CHUNK, PRE_ACTIVATION_BUDGET // max(tokens, 1))
        for start in range(0, self.n_latents, size):
            yield start, min(start + size, self.n_latents)


def context_of(sae: object) -> TemporalContext | None:
    """What an autoencoder needs of earlier tokens; None for most, and for other objects."""
    return sae.context if isinstance(sae, SparseAutoencoder) else None


def hook_width(sae: Autoencoder) -> int:
    """Width of the activations at the hook that an autoencoder reads."""
    context = context_of(sae)
    return sae.d_in if context is None else context.width


def _join(parts: list[SparseLatents]) -> SparseLatents:
    """Stack the codes of consecutive blocks of tokens."""
    slots = max(part.indices.shape[-1] for part in parts)

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.cat([F.pad(tensor, (0, slots - tensor.shape[-1])) for tensor in tensors])

    shifts = [part.shift for part in parts if part.shift is not None]
    factors = [part.factor for part in parts if part.factor is not None]
    return SparseLatents(
        padded([part.indices for part in parts]),
        padded([part.values for part in parts]),
        parts[0].n_latents,
        torch.cat(shifts) if shifts else None,
        torch.cat(factors) if factors else None,
    )
