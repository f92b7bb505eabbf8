"""Absorption of a feature: other latents write its direction where its main latents are silent or weak.

Source: Chanin et al. 2024, arXiv 2409.14507; the fraction is SAEBench's (arXiv 2503.09532, appendix).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.evaluators.first_letter.protocol import AbsorptionSection
from saebench.sae import SparseLatents


@dataclass(frozen=True)
class Absorption:
    """Absorption on some words.

    Attributes:
        fraction: ``[words]`` from 0 to 1, the share of the main latents' work that others do.
        full: ``[words]`` bool: the main latents are silent and one other latent stands in.
    """

    fraction: Tensor
    full: Tensor


def absorption(
    code: SparseLatents, activations: Tensor, probe: Tensor, decoder: Tensor, main: list[int], settings: AbsorptionSection
) -> Absorption:
    """Absorption of the feature that a probe finds, on words that have it.

    A latent's projection is the part of the activation that it writes along the probe: its value times its decoder row times
    the unit probe. It therefore does not depend on the scale of decoder rows.

    Args:
        code: of the words' activations.
        activations: ``[words, d]``.
        probe: ``[d]``, of any length.
        decoder: ``[n, d]``.
        main: the feature's main latents.
        settings: thresholds.
    """
    unit = probe / probe.norm()
    along = decoder @ unit
    cosine = along / decoder.norm(dim=1).clamp_min(1e-30)
    values = code.values if code.factor is None else code.values * code.factor
    written = values * along[code.indices]
    is_main = torch.isin(code.indices, torch.tensor(main, dtype=torch.int64)) & code.active
    present = activations @ unit
    by_main = (written * is_main).sum(dim=1)
    helps = code.active & ~is_main & (cosine[code.indices] >= settings.cosine) & (written > 0)
    slots = min(settings.latents, code.indices.shape[1])
    by_others = (written * helps).topk(slots, dim=1).values.sum(dim=1)
    part = torch.minimum(by_others, present - by_main)
    fraction = torch.where(by_main <= 0, 1.0, (part / (part + by_main)).clamp(0, 1))
    none = (by_main >= present) | (by_others / present < settings.share)
    return Absorption(torch.where(none, 0.0, fraction), _full(code, written, cosine, is_main, present, settings))


def _full(
    code: SparseLatents, written: Tensor, cosine: Tensor, is_main: Tensor, present: Tensor, settings: AbsorptionSection
) -> Tensor:
    """``[words]`` bool; see ``Absorption``."""
    if code.indices.shape[1] == 0:
        return torch.zeros_like(present, dtype=torch.bool)
    silent = ~(is_main & (code.values >= settings.fires)).any(dim=1)
    largest, slot = written.max(dim=1)
    aligned = cosine[code.indices.gather(1, slot.unsqueeze(1)).squeeze(1)] >= settings.full_cosine
    return silent & aligned & (present >= 0) & (largest / present >= settings.share)
