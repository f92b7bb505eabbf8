"""Trained controls: autoencoders that train as usual but keep a random part of themselves.

Source: Korznikov et al. 2026, "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?". They reconstruct
well, so a metric that does not distinguish them from a trained autoencoder measures reconstruction at best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.training.recipe import ROWS_AT_ONCE

CONTROL_KINDS: dict[str, str] = {
    "decoder": "frozen decoder",
    "soft-decoder": "soft-frozen decoder",
    "encoder": "frozen encoder",
}
"""The name of each control in a training record, by the value of the setting ``freeze``."""


def control_kind(freeze: str, cone: float) -> str:
    """The kind of control as it is shown, with the bound of a soft-frozen decoder."""
    return CONTROL_KINDS[freeze] + (f" (cosine at least {cone:g})" if freeze == "soft-decoder" else "")


def project_onto_cones(decoder: Tensor, start: Tensor, least: float) -> None:
    """Rotate directions whose cosine with their start is below ``least`` to the nearest direction where it is not, in place.

    Args:
        decoder: ``[n, d]``, unit norm; ``start``: ``[n, d]``, unit norm.
        least: the smallest cosine, from 0 to 1. Rows that have it or more are not changed.
    """
    across_length = (1 - least**2) ** 0.5
    for block, centre in zip(decoder.split(ROWS_AT_ONCE), start.split(ROWS_AT_ONCE), strict=True):
        outside = (torch.linalg.vecdot(block, centre) < least).nonzero().flatten()
        if outside.numel():
            moved, axis = block[outside].double(), torch.nn.functional.normalize(centre[outside].double(), dim=1)
            across = moved - torch.linalg.vecdot(moved, axis).unsqueeze(1) * axis
            across = torch.nn.functional.normalize(across, dim=1)
            block[outside] = (least * axis + across_length * across).to(block.dtype)
