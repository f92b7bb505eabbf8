"""Evaluating any object that encodes and decodes: a module in a training loop, an experiment in a notebook."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.notices import notice
from saebench.sae.info import CheckpointInfo
from saebench.sae.latents import SparseLatents
from saebench.sae.model import Autoencoder


class ForeignAutoencoder:
    """An object with ``encode(x)`` and ``decode(z)``, with the interface of ``Autoencoder``.

    ``encode`` maps ``[tokens, d]`` to dense latents ``[tokens, n]`` or to ``SparseLatents``; ``decode`` maps what
    ``encode`` returned back to ``[tokens, d]``. Widths are found by one trial call.
    """

    def __init__(self, inner: Any, d_in: int, name: str | None = None) -> None:
        self.inner = inner
        self._sparse = False
        trial = torch.zeros(2, d_in)
        parameter = next(inner.parameters(), None) if isinstance(inner, torch.nn.Module) else None
        if parameter is not None:
            trial = trial.to(parameter.device, parameter.dtype)
        try:
            with torch.no_grad():
                code = inner.encode(trial)
                out = inner.decode(code)
        except Exception as error:
            raise SaebenchError(
                f"Encoding and decoding a trial input of shape [2, {d_in}] failed in {type(inner).__name__}: {error}"
            ) from error
        if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 2:
            raise SaebenchError(f"decode of {type(inner).__name__} must return a tensor of shape [tokens, d].")
        self._sparse = isinstance(code, SparseLatents)
        if not self._sparse and (not isinstance(code, Tensor) or code.ndim != 2):
            raise SaebenchError(f"encode of {type(inner).__name__} must return a tensor of shape [tokens, n].")
        if not self._sparse:
            notice(
                f"{type(inner).__name__}.encode returns dense latents, so a batch takes memory for tokens times latents; "
                "return saebench.sae.SparseLatents to avoid that."
            )
        n_latents = code.n_latents if isinstance(code, SparseLatents) else code.shape[1]
        self.info = CheckpointInfo(
            origin=name or type(inner).__name__,
            format="object",
            architecture=type(inner).__name__,
            d_in=d_in,
            d_out=out.shape[1],
            n_latents=n_latents,
            activation={"name": "unknown"},
        )
        self._dtype, self._device = trial.dtype, trial.device

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""
        return self.info.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations it writes."""
        return self.info.d_out

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        return self.info.n_latents

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseLatents:
        """The object's own code of ``x`` (``[tokens, d_in]``), gathered into slots."""
        code = self.inner.encode(x.to(self._device, self._dtype))
        return code if isinstance(code, SparseLatents) else SparseLatents.from_dense(code.float())

    @torch.no_grad()
    def decode(self, latents: SparseLatents, x: Tensor | None = None) -> Tensor:
        """The object's own reconstruction, ``[tokens, d_out]``, in float32."""
        code = latents if self._sparse else latents.to_dense().to(self._dtype)
        out: Tensor = self.inner.decode(code)
        return out.float()


def wrap(candidate: Any, d_in: int, name: str | None = None) -> Autoencoder:
    """Wrap ``candidate`` as an ``Autoencoder``.

    Raises:
        SaebenchError: it has no ``encode`` and ``decode``, or they do not fit activations of width ``d_in``.
    """
    if isinstance(candidate, Autoencoder):
        return candidate
    if not callable(getattr(candidate, "encode", None)) or not callable(getattr(candidate, "decode", None)):
        raise SaebenchError(
            f"Cannot evaluate an object of type {type(candidate).__name__}: give a path, a hub name, "
            "a SparseAutoencoder, or an object with encode and decode."
        )
    return ForeignAutoencoder(candidate, d_in, name)
