"""Which latents are of the text to forget, and what clamping them does to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.forgetting.questions import TOKENS_PER_BATCH, Asked, Asker, batches, padded
from saebench.lm import Cut
from saebench.lm.continuation import KeysAndValues, cache_of, cache_trouble, empty_cache, layers_of
from saebench.lm.ends import end_logits
from saebench.lm.prompts import in_common
from saebench.notices import notice
from saebench.sae import Autoencoder, SparseAutoencoder, SparseLatents


def active_share(sae: Autoencoder, activations: Iterable[Tensor]) -> Tensor:
    """``[n]`` float64: the share of tokens on which each latent is above 0; ``activations`` are ``[tokens, d_in]`` each."""
    counts, tokens = torch.zeros(sae.n_latents, dtype=torch.float64), 0
    for x in activations:
        code = sae.encode(x)
        counts += torch.bincount(code.indices[code.values > 0].cpu(), minlength=sae.n_latents)
        tokens += x.shape[0]
    return counts / max(tokens, 1)


def forget_latents(forget: Tensor, retain: Tensor, threshold: float) -> Tensor:
    """Latents that are active on the text to forget and on less than ``threshold`` of the retained one, most active first.

    ``forget`` and ``retain`` are shares of tokens, ``[n]`` each. Latents that are equally active are in their own order.
    """
    score = torch.where(retain < threshold, forget, 0.0)
    return score.argsort(descending=True, stable=True)[: int((score > 0).sum())]


def clamp_change(sae: SparseAutoencoder, code: SparseLatents, chosen: Tensor, clamp: float) -> Tensor:
    """``[tokens, d_out]``: what setting the ``chosen`` slots (``[tokens, slots]`` bool) to minus ``clamp`` adds.

    ``clamp`` is in units of a decoder row of norm 1.
    """
    if code.indices.shape[1] == 0:
        return code.values.new_zeros(code.indices.shape[0], sae.d_out)
    values = code.values if code.factor is None else code.values * code.factor
    norm = sae.W_dec.float().norm(dim=1)
    weights = torch.where(chosen, -clamp - values * norm[code.indices], 0.0) / norm[code.indices].clamp_min(1e-30)
    return F.embedding_bag(code.indices, sae.W_dec.float(), per_sample_weights=weights, mode="sum")


class _Rows:
    """Rows of tokens with their activations and code.

    Args:
        cut, sae: the language model and the autoencoder.
        tokens: ``[rows, position]``, padded on the right.
        last: ``[rows]``, each one's last position.
    """

    def __init__(self, cut: Cut, sae: SparseAutoencoder, tokens: Tensor, last: Tensor) -> None:
        self._sae, self._shape = sae, tokens.shape
        self.prefix = cut.prefix(tokens)
        self._code = sae.encode(self.prefix.inputs.flatten(0, 1).float())
        places = torch.arange(tokens.shape[1]).expand_as(tokens)
        self._live = ((places > 0) & (places <= last.unsqueeze(1))).flatten().to(self._code.values.device)

    def change(self, latents: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
        """``(change [rows, position, d_out], hit [rows] bool)``: what clamping ``latents`` adds, and to which rows."""
        code = self._code
        chosen = torch.isin(code.indices, latents.to(code.indices.device)) & (code.values > 0) & self._live.unsqueeze(1)
        change = clamp_change(self._sae, code, chosen, clamp).view(*self._shape, -1)
        return change.to(self.prefix.outputs), chosen.any(dim=1).view(self._shape).any(dim=1)


def shared_start(cut: Cut, asked: Sequence[Asked]) -> int:
    """The number of tokens that all questions begin with; 0 where the model cannot be continued from a key-value cache."""
    length = in_common([each.ids for each in asked]) if asked else 0
    if not length:
        return 0
    prefix = cut.prefix(torch.tensor([asked[0].ids]))
    trouble = cache_trouble(cut, prefix.outputs, prefix, length, len(asked[0].ids) - length)
    if trouble is None:
        return length
    notice(
        f"Whole questions run with each setting, more slowly and with the same numbers: {cut.model.name} cannot be "
        f"continued from a key-value cache ({trouble})."
    )
    return 0


def _run_start(
    cut: Cut, sae: SparseAutoencoder, start: Sequence[int], settings: Sequence[tuple[Tensor, float]]
) -> list[KeysAndValues]:
    """Keys and values ``[settings, ...]`` above the cut of the tokens ``start``, with each setting's latents clamped."""
    last, cache = torch.full((len(settings),), len(start) - 1), empty_cache()
    rows = _Rows(cut, sae, torch.tensor([start]), last[:1])
    changes = torch.cat([rows.change(latents, clamp)[0] for latents, clamp in settings])
    prefix = rows.prefix.rows(torch.zeros_like(last))
    end_logits(cut.model, last, partial(cut.suffix, prefix.outputs + changes, prefix, cache))
    return layers_of(cache, cut.first_layer_above, cut.model.n_layers)


def _of_settings(cut: Cut, held: Sequence[KeysAndValues], which: Tensor) -> Any:
    """A cache with what ``_run_start`` found, for rows with these settings (their numbers, ``[rows]``)."""
    return cache_of(held, lambda of: of[which.to(of.device)], cut.first_layer_above)


@torch.no_grad()
def clamped_answers(
    cut: Cut, sae: SparseAutoencoder, asker: Asker, asked: Sequence[Asked], settings: Sequence[tuple[Tensor, float]],
    start: int, advance: Callable[[float], None],
) -> Tensor:  # fmt: skip
    """``[settings, questions]`` bool: whether each question is answered right with each setting's latents clamped.

    A latent that is above 0 is set to minus the setting's value, in units of a decoder row of norm 1; everything else of the
    activations stays, and so does the first position. A question on which none of a setting's latents is above 0 is
    answered as without it, and is not run again. What all questions begin with runs once for each setting.

    Args:
        cut: the language model.
        sae: the autoencoder.
        asker: of the questions.
        asked: questions that are answered right without any change.
        settings: latents (``[chosen]``) and clamp of each.
        start: the number of tokens that all questions begin with and that are to run once (``shared_start``).
        advance: called with the number of questions of each batch.
    """
    right = torch.ones(len(settings), len(asked), dtype=torch.bool)
    held = _run_start(cut, sae, asked[0].ids[:start], settings) if start and settings else []
    for batch in batches(asked):
        tokens, last = padded([asked[at] for at in batch])
        rows = _Rows(cut, sae, tokens, last)
        together = max(1, TOKENS_PER_BATCH // tokens.numel())
        for first in range(0, len(settings), together):
            found = [rows.change(latents, clamp) for latents, clamp in settings[first : first + together]]
            number, row = torch.stack([hit for _, hit in found]).nonzero(as_tuple=True)
            if not row.numel():
                continue
            tails = rows.prefix.rows(row, start)
            outputs = tails.outputs + torch.stack([change for change, _ in found])[number, row, start:]
            which, places = number.cpu() + first, row.cpu()
            ends = last[places] - start
            before = _of_settings(cut, held, which) if held else None
            logits = end_logits(cut.model, ends, partial(cut.suffix, outputs, tails, before))
            numbers = torch.tensor(batch)[places]
            right[which, numbers] = asker.right(logits, [asked[at] for at in numbers.tolist()])
        advance(len(batch))
    return right
