"""The best non-negative values for the latents that an autoencoder chose: its code with the same support, refined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from saebench.evaluators.codes.nnls import solve
from saebench.sae import SparseAutoencoder, SparseLatents

CHUNK_ELEMENTS = 2**22
"""Decoder entries gathered at once: 16 MiB in float32."""


class Refined(NamedTuple):
    """A refined code.

    Attributes:
        latents: the code with the same slots and new values; a slot that is refined to 0 is no longer active.
        converged: ``[tokens]`` bool.
    """

    latents: SparseLatents
    converged: Tensor


def refine(sae: SparseAutoencoder, latents: SparseLatents, residual: Tensor) -> Refined:
    """Minimise ``|x - x̂|²`` of each token over the values of its active latents, each keeping its sign.

    Source: Gao et al. 2024, section 5.1 (inference-time optimisation on a fixed support).

    Args:
        sae: the autoencoder.
        latents: its code.
        residual: ``[tokens, d_out]``, target minus reconstruction, in the model's units.
    """
    if latents.factor is not None:
        residual = residual / latents.factor.clamp_min(torch.finfo(residual.dtype).tiny)
    values = latents.values.clone()
    converged = torch.ones(values.shape[0], dtype=torch.bool, device=values.device)
    for tokens, slots in _chunks(latents, sae.d_out):
        indices, old = latents.indices[tokens, :slots], latents.values[tokens, :slots]
        live, signs = old != 0, old.sign().double()  # empty slots have sign 0
        directions = sae.W_dec[indices].float()
        gram = torch.bmm(directions, directions.transpose(1, 2)).double() * signs.unsqueeze(2) * signs.unsqueeze(1)
        start = old.abs().double()
        correlation = torch.bmm(directions, residual[tokens].float().unsqueeze(2)).squeeze(2).double() * signs
        linear = correlation + torch.bmm(gram, start.unsqueeze(2)).squeeze(2)
        solution = solve(gram, linear, start, live)
        values[tokens, :slots] = (solution.values * signs).to(values.dtype)
        converged[tokens] = solution.converged
    return Refined(replace(latents, values=values), converged)


def _chunks(latents: SparseLatents, width: int) -> Iterator[tuple[Tensor, int]]:
    """``(tokens, slots in use)``: tokens with similar numbers of slots together, so that few slots are empty."""
    places = torch.arange(1, latents.values.shape[1] + 1, device=latents.values.device)
    used = (latents.active * places).amax(dim=1) if latents.values.shape[1] else latents.values.new_zeros(0)
    order = used.argsort(descending=True)
    start = 0
    while start < order.numel():
        slots = int(used[order[start]])
        if slots == 0:
            return
        stop = start + max(1, CHUNK_ELEMENTS // (slots * (slots + width)))
        yield order[start:stop], slots
        start = stop
