"""Activation functions: from pre-activations to the few active latents.

Pre-activations arrive in chunks of latents, so that the full row is never in memory. An activation function either acts on
each latent separately (``Elementwise``) or compares latents (TopK, GroupMax), in which case a running selection is kept.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae.latents import pack_slots
from saebench.sae.topk import top_k


class Selection(Protocol):
    """Collects the active latents of a block of tokens from chunks of pre-activations."""

    def add(self, pre: Tensor, start: int) -> None:
        """Add the pre-activations ``[tokens, chunk]`` of latents ``start`` to ``start + chunk``."""

    def result(self) -> tuple[Tensor, Tensor]:
        """``(indices, values)``, each ``[tokens, slots]``."""


class Activation(ABC):
    """An activation function with its per-latent parameters, if any."""

    name: str

    @abstractmethod
    def select(self, tokens: int, n_latents: int) -> Selection:
        """Start the selection for a block of ``tokens``."""

    @abstractmethod
    def prefix(self, n_latents: int) -> Activation:
        """The activation function of the first ``n_latents`` latents alone."""

    def describe(self) -> dict[str, Any]:
        """The activation function's name and parameters, as JSON data."""
        return {"name": self.name}

    def parameters(self) -> dict[str, Tensor]:
        """Per-latent tensors, ``[n]`` each, by the name they are saved under."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """The same function with its parameters on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(moved, name, value.to(device))
        return moved

    def check(self, n_latents: int) -> None:
        """Raise ``SaebenchError`` where the parameters do not fit a dictionary of ``n_latents``."""
        for name, tensor in self.parameters().items():
            if tensor.shape != (n_latents,):
                raise SaebenchError(
                    f"The checkpoint's {name} has shape {list(tensor.shape)}, but the autoencoder has {n_latents} latents."
                )


class Elementwise(Activation):
    """A latent's activation depends on its own pre-activation alone."""

    @abstractmethod
    def values(self, pre: Tensor, start: int) -> Tensor:
        """Activations of latents ``start`` and on, from their pre-activations ``[tokens, chunk]``."""

    def select(self, tokens: int, n_latents: int) -> Selection:
        """Keep the non-zero values."""
        return _NonZero(self, tokens)


class _NonZero:
    def __init__(self, activation: Elementwise, tokens: int) -> None:
        self._activation, self._tokens = activation, tokens
        self._rows: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._values: list[Tensor] = []

    def add(self, pre: Tensor, start: int) -> None:
        values = self._activation.values(pre, start)
        rows, columns = values.nonzero(as_tuple=True)
        self._rows.append(rows)
        self._columns.append(columns + start)
        self._values.append(values[rows, columns])

    def result(self) -> tuple[Tensor, Tensor]:
        return pack_slots(torch.cat(self._rows), torch.cat(self._columns), torch.cat(self._values), self._tokens)


@dataclass(frozen=True)
class ReLU(Elementwise):
    """``max(pre, 0)``."""

    name = "relu"

    def values(self, pre: Tensor, start: int) -> Tensor:
        """Activations ``[tokens, chunk]``."""
        return pre.relu()

    def prefix(self, n_latents: int) -> ReLU:
        """The same function."""
        return self


@dataclass(frozen=True)
class JumpReLU(Elementwise):
    """``relu(pre) * (pre > threshold)`` with a threshold per latent (Rajamanoharan et al. 2024).

    BatchTopK and Matryoshka autoencoders use it at inference with one threshold for all latents: ``name`` then says so.
    """

    threshold: Tensor  # [n]
    name: str = "jumprelu"

    def values(self, pre: Tensor, start: int) -> Tensor:
        """Activations ``[tokens, chunk]``."""
        threshold = self.threshold[start : start + pre.shape[-1]]
        return pre.relu() * (pre > threshold)

    def prefix(self, n_latents: int) -> JumpReLU:
        """The first thresholds."""
        return JumpReLU(self.threshold[:n_latents], self.name)

    def describe(self) -> dict[str, Any]:
        """The name, and the threshold where all latents share it (else its mean)."""
        low, high = self.threshold.min().item(), self.threshold.max().item()
        if low == high:
            return {"name": self.name, "threshold": low}
        return {"name": self.name, "mean_threshold": self.threshold.double().mean().item()}

    def parameters(self) -> dict[str, Tensor]:
        """The thresholds."""
        return {"threshold": self.threshold}


@dataclass(frozen=True)
class Gated(Elementwise):
    """A gate and a magnitude that share directions (Rajamanoharan et al. 2024, "Improving dictionary learning").

    The pre-activation is the gate's, ``x @ W_enc + b_enc`` with ``b_enc = b_gate``; the latent is active where it is
    positive, and its value is ``relu(x @ (W_enc * exp(r_mag)) + b_mag)``.
    """

    r_mag: Tensor  # [n]
    b_mag: Tensor  # [n]
    b_gate: Tensor  # [n], equal to the autoencoder's b_enc
    name = "gated"

    def values(self, pre: Tensor, start: int) -> Tensor:
        """Activations ``[tokens, chunk]``."""
        part = slice(start, start + pre.shape[-1])
        magnitude = (pre - self.b_gate[part]) * self.r_mag[part].exp() + self.b_mag[part]
        return magnitude.relu() * (pre > 0)

    def prefix(self, n_latents: int) -> Gated:
        """The first latents' gates and magnitudes."""
        return Gated(self.r_mag[:n_latents], self.b_mag[:n_latents], self.b_gate[:n_latents])

    def parameters(self) -> dict[str, Tensor]:
        """``r_mag`` and ``b_mag``; the gate's bias is the autoencoder's ``b_enc``."""
        return {"r_mag": self.r_mag, "b_mag": self.b_mag}


@dataclass(frozen=True)
class ProLU(Elementwise):
    """``pre`` where ``pre + bias > 0`` and ``pre > 0`` (Taggart 2024). The autoencoder's own ``b_enc`` is 0."""

    bias: Tensor  # [n]
    name = "prolu"

    def values(self, pre: Tensor, start: int) -> Tensor:
        """Activations ``[tokens, chunk]``."""
        return pre.relu() * (pre + self.bias[start : start + pre.shape[-1]] > 0)

    def prefix(self, n_latents: int) -> ProLU:
        """The first biases."""
        return ProLU(self.bias[:n_latents])

    def parameters(self) -> dict[str, Tensor]:
        """The thresholding biases."""
        return {"prolu_bias": self.bias}


@dataclass(frozen=True)
class TopK(Activation):
    """The ``k`` largest pre-activations of each token (Gao et al. 2024, section 2.3).

    ``relu`` sets negative ones among them to 0, as the released code does; without it they are kept. ``signed`` ranks by
    absolute value and keeps the sign.
    """

    k: int
    relu: bool = True
    signed: bool = False
    name = "topk"

    def select(self, tokens: int, n_latents: int) -> Selection:
        """Keep a running top-k."""
        return _RunningTopK(self)

    def prefix(self, n_latents: int) -> TopK:
        """TopK among the first latents."""
        return TopK(min(self.k, n_latents), self.relu, self.signed)

    def describe(self) -> dict[str, Any]:
        """The name and ``k``, and the options that differ from the default."""
        rest = {} if self.relu and not self.signed else {"relu": self.relu, "signed": self.signed}
        return {"name": self.name, "k": self.k, **rest}

    def check(self, n_latents: int) -> None:
        """Raise ``SaebenchError`` unless ``1 <= k <= n_latents``."""
        if not 1 <= self.k <= n_latents:
            raise SaebenchError(
                f"The autoencoder has k = {self.k} and {n_latents} latents; k must be between 1 and {n_latents}."
            )


class _RunningTopK:
    def __init__(self, activation: TopK) -> None:
        self._activation = activation
        self._values: Tensor | None = None
        self._indices: Tensor | None = None

    def add(self, pre: Tensor, start: int) -> None:
        k = min(self._activation.k, pre.shape[-1])
        ranked = pre.abs() if self._activation.signed else pre
        values, indices = top_k(ranked, k)
        if self._activation.signed:
            values = pre.gather(-1, indices)
        indices = indices + start
        if self._values is not None and self._indices is not None:
            values = torch.cat([self._values, values], dim=-1)
            indices = torch.cat([self._indices, indices], dim=-1)
            ranked = values.abs() if self._activation.signed else values
            slots = ranked.topk(min(self._activation.k, values.shape[-1]), dim=-1, sorted=False).indices
            values, indices = values.gather(-1, slots), indices.gather(-1, slots)
        self._values, self._indices = values, indices

    def result(self) -> tuple[Tensor, Tensor]:
        assert self._values is not None and self._indices is not None
        values = self._values.relu() if self._activation.relu and not self._activation.signed else self._values
        return self._indices * (values != 0), values


@dataclass(frozen=True)
class GroupMax(Activation):
    """The largest pre-activation of each of ``k`` equal groups of neighbouring latents, after ReLU (sparsify)."""

    k: int
    name = "groupmax"

    def select(self, tokens: int, n_latents: int) -> Selection:
        """Keep each group's running maximum."""
        return _RunningGroupMax(self.k, n_latents // self.k)

    def prefix(self, n_latents: int) -> Activation:
        """Not defined: the groups are a partition of the whole dictionary."""
        raise SaebenchError("A GroupMax autoencoder has no prefixes: its groups cover the whole dictionary.")

    def describe(self) -> dict[str, Any]:
        """The name and the number of groups."""
        return {"name": self.name, "k": self.k}

    def check(self, n_latents: int) -> None:
        """Raise ``SaebenchError`` unless the groups are equal."""
        if self.k < 1 or n_latents % self.k:
            raise SaebenchError(f"GroupMax needs equal groups, but {n_latents} latents do not divide into {self.k}.")


class _RunningGroupMax:
    def __init__(self, groups: int, size: int) -> None:
        self._groups, self._size = groups, size
        self._values: Tensor | None = None
        self._indices: Tensor | None = None

    def add(self, pre: Tensor, start: int) -> None:
        if self._values is None or self._indices is None:
            self._values = pre.new_zeros(pre.shape[0], self._groups)
            self._indices = torch.zeros(pre.shape[0], self._groups, dtype=torch.int64, device=pre.device)
        stop = start + pre.shape[-1]
        for group in range(start // self._size, (stop - 1) // self._size + 1):
            low, high = max(start, group * self._size), min(stop, (group + 1) * self._size)
            values, places = pre[:, low - start : high - start].max(dim=-1)
            larger = values > self._values[:, group]
            self._values[:, group] = torch.where(larger, values, self._values[:, group])
            self._indices[:, group] = torch.where(larger, places + low, self._indices[:, group])

    def result(self) -> tuple[Tensor, Tensor]:
        assert self._values is not None and self._indices is not None
        return self._indices, self._values
