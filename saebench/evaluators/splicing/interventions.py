"""Interventions at single tokens: one latent ablated, one channel set to 0, one random direction removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.splicing.effects import Effect, effect
from saebench.lm import Cut, Prefix
from saebench.lm.continuation import Continuation, cache_trouble
from saebench.notices import notice
from saebench.sae import Autoencoder, SparseLatents
from saebench.text.corpus import TokenCorpus


def sample_tokens(corpus: TokenCorpus, tokens: int, per_row: int, horizon: int, seed: int) -> dict[int, list[int]]:
    """Positions by row, sampled at random among those that count and have ``horizon`` positions from their own on.

    Rows are sampled first, then up to ``per_row`` positions in each, until there are ``tokens``. Rows and positions are
    in order.
    """
    generator = torch.Generator().manual_seed(seed)
    last = corpus.context - horizon
    found: dict[int, list[int]] = {}
    missing = tokens
    for row in torch.randperm(corpus.tokens.shape[0], generator=generator).tolist():
        eligible = (
            (~corpus.excluded[row, : last + 1]).nonzero().flatten() if last >= 0 else torch.empty(0, dtype=torch.int64)
        )
        order = torch.randperm(eligible.numel(), generator=generator)[: min(per_row, missing)]
        if order.numel():
            found[row] = sorted(eligible[order].tolist())
            missing -= order.numel()
        if not missing:
            break
    return dict(sorted(found.items()))


@dataclass
class SplicedRow:
    """A row with reconstructions in place, and its code.

    Attributes:
        prefix: of the row, ``[1, position, ...]``.
        outputs: ``[1, position, d_out]``: reconstructions at positions that count, clean activations elsewhere.
        latents: the code of the positions that count; ``inputs`` (``[counted, d_in]``) is what was encoded.
        slot_of: position -> its row in ``latents``.
    """

    prefix: Prefix
    outputs: Tensor
    latents: SparseLatents
    inputs: Tensor
    slot_of: dict[int, int]

    @staticmethod
    def make(sae: Autoencoder, cut: Cut, tokens: Tensor, excluded: Tensor) -> SplicedRow:
        """Run, encode and decode a row (``tokens`` and ``excluded``: ``[position]``)."""
        prefix = cut.prefix(tokens.unsqueeze(0))
        counted = (~excluded).nonzero().flatten()
        places = counted.to(prefix.outputs.device)
        inputs = prefix.inputs[0, places].float()
        latents = sae.encode(inputs)
        outputs = prefix.outputs.clone()
        outputs[0, places] = sae.decode(latents, inputs).to(outputs)
        slots = {position: slot for slot, position in enumerate(counted.tolist())}
        return SplicedRow(prefix, outputs, latents, inputs, slots)

    def active_at(self, position: int) -> int:
        """The number of active latents at a position that counts."""
        slot = self.slot_of[position]
        return int(self.latents.rows(slice(slot, slot + 1)).active.sum())

    def without_each(self, sae: Autoencoder, position: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``(latents [m], reconstructions [m, d_out])``: the token's reconstruction with one active latent ablated.

        Where more than ``most`` are active, that many are sampled at random. Latents are in order of their indices.
        """
        slot = self.slot_of[position]
        code = self.latents.rows(slice(slot, slot + 1))
        active = code.active[0].nonzero().flatten()
        if active.numel() > most:
            drawn = torch.randperm(active.numel(), generator=generator)[:most]
            active = active[drawn.to(active.device)]
        active = active[code.indices[0, active].argsort()]
        if not active.numel():
            return active, self.outputs.new_zeros(0, self.outputs.shape[-1])
        keep = torch.ones(active.numel(), code.values.shape[1], dtype=torch.bool, device=code.values.device)
        keep[torch.arange(active.numel()), active] = False
        repeated = self.latents.rows(torch.full((active.numel(),), slot, device=code.values.device)).where(keep)
        inputs = self.inputs[slot].expand(active.numel(), -1)
        return code.indices[0, active], sae.decode(repeated, inputs)


class Interventions:
    """Runs batches of interventions through the layers above a cut and reduces their effects on the fly.

    Args:
        cut: the language model, cut.
        horizon: positions compared, the token's own included.
        batch: interventions in a batch; effects do not depend on it beyond rounding.
    """

    def __init__(self, cut: Cut, horizon: int, batch: int) -> None:
        self.cut, self.horizon, self.batch = cut, horizon, batch
        self.cached: bool | None = None
        """Whether the model's key-value cache can be used; determined on the first row."""

    def start(self, outputs: Tensor, prefix: Prefix) -> Continuation:
        """Run a row's layers above the cut once, with ``outputs`` (``[1, position, d_out]``) in place."""
        if self.cached is None:
            first = outputs.shape[1] - self.horizon
            trouble = cache_trouble(self.cut, outputs, prefix, first, self.horizon) if first > 0 else None
            self.cached = first > 0 and trouble is None
            if trouble is not None:
                notice(
                    "Interventions run whole rows again, several times slower and with the same numbers: "
                    f"{self.cut.model.name} cannot be continued from a key-value cache ({trouble})."
                )
        return Continuation(self.cut, outputs, prefix, self.cached)

    def effects(
        self, row: Continuation, position: int, replacements: Tensor, done: Callable[[int], object] = lambda count: None
    ) -> Effect:
        """The effects of each of ``replacements`` (``[m, d_out]``) at ``position``, with the rest of the row unchanged.

        The unchanged row is included in each batch, so that its rounding is the same as that of the others.
        """
        found = []
        unaltered = row.outputs(position, self.horizon)
        for part in replacements.split(self.batch):
            outputs = unaltered.repeat(part.shape[0] + 1, 1, 1)
            outputs[1:, 0] = part.to(outputs)
            logits = row.run(outputs, position)
            found.append(effect(logits[1:], logits[0]))
            done(part.shape[0])
        if not found:
            empty = torch.zeros(0, dtype=torch.float64)
            return Effect(empty, empty)
        return Effect(*(torch.cat(each) for each in zip(*found, strict=True)))


def zeroed_channels(clean: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``[count, d]``: an activation (``[d]``) with one of ``count`` random channels set to 0 in each."""
    channels = torch.randperm(clean.numel(), generator=generator)[:count].to(clean.device)
    out = clean.repeat(channels.numel(), 1)
    out[torch.arange(channels.numel()), channels] = 0
    return out


def random_removals(full: Tensor, without: Tensor, generator: torch.Generator) -> Tensor:
    """``[m, d]``: ``full`` (``[d]``) minus a random direction of the same norm as the difference of each of ``without``."""
    directions = F.normalize(torch.randn(without.shape, generator=generator), dim=1).to(without)
    lengths: Tensor = torch.linalg.vector_norm(full - without, dim=1, keepdim=True)
    return full - lengths * directions


def token_generators(seed: int, tokens: dict[int, list[int]], context: int) -> Iterator[tuple[int, int, torch.Generator]]:
    """``(row, position, generator)`` for each token: samples at one token do not depend on the others."""
    for row, positions in tokens.items():
        for position in positions:
            number = (seed * 1_000_003 + row * context + position) % 2**63
            yield row, position, torch.Generator().manual_seed(number)
