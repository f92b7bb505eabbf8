"""Which latents are of the text to forget, and what clamping them does to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.forgetting.questions import TOKENS_PER_BATCH, Asked, Asker, batches, padded
from saebench.lm import Cut, Prefix
from saebench.lm.continuation import cache_trouble, empty_cache, known_trouble, part_of
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


class _Start:
    """What all questions begin with, run once with each setting's latents clamped.

    Attributes:
        length: its tokens; 0 where there are none, or where the model cannot be continued from a key-value cache.
    """

    def __init__(
        self, cut: Cut, sae: SparseAutoencoder, asked: Sequence[Asked], settings: Sequence[tuple[Tensor, float]]
    ) -> None:
        self._cut, self._filled = cut, empty_cache()
        self.length = in_common([each.ids for each in asked]) if asked and settings else 0
        if not self.length or self._is_refused(asked[0]):
            self.length = 0
            return
        tokens, last = torch.tensor([asked[0].ids[: self.length]]), torch.tensor([self.length - 1])
        rows = _Rows(cut, sae, tokens, last)
        changes = torch.cat([rows.change(latents, clamp)[0] for latents, clamp in settings])
        prefix = rows.prefix.rows(torch.zeros(len(settings), dtype=torch.int64))
        run = partial(cut.suffix, prefix.outputs + changes, prefix, self._filled)
        end_logits(cut.model, last.expand(len(settings)), run)

    def _is_refused(self, asked: Asked) -> bool:
        def find() -> str | None:
            prefix = self._cut.prefix(torch.tensor([asked.ids]))
            return cache_trouble(self._cut, prefix.outputs, prefix, self.length, len(asked.ids) - self.length)

        trouble = known_trouble(self._cut, find)
        if trouble is not None:
            notice(
                f"Whole questions run with each setting, more slowly and with the same numbers: {self._cut.model.name} "
                f"cannot be continued from a key-value cache ({trouble})."
            )
        return trouble is not None

    def cache(self, settings: Tensor) -> Any:
        """Keys and values for rows with these settings (their numbers, ``[rows]``); None where there are none."""
        if not self.length:
            return None
        blank = torch.zeros(settings.numel(), 1, self.length, 1, dtype=self._cut.model.dtype)
        return part_of(
            self._cut, self._filled, lambda held: held[settings.to(held.device)], blank.to(self._cut.model.device)
        )


@torch.no_grad()
def clamped_answers(
    cut: Cut, sae: SparseAutoencoder, asker: Asker, asked: Sequence[Asked], settings: Sequence[tuple[Tensor, float]],
    advance: Callable[[float], None],
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
        advance: called with the number of questions of each batch.
    """
    right = torch.ones(len(settings), len(asked), dtype=torch.bool)
    start = _Start(cut, sae, asked, settings)
    for batch in batches(asked):
        tokens, last = padded([asked[at] for at in batch])
        rows = _Rows(cut, sae, tokens, last)
        together = max(1, TOKENS_PER_BATCH // tokens.numel())
        for first in range(0, len(settings), together):
            found = [rows.change(latents, clamp) for latents, clamp in settings[first : first + together]]
            number, row = torch.stack([hit for _, hit in found]).nonzero(as_tuple=True)
            if not row.numel():
                continue
            tails = Prefix(*(each[row, start.length :] for each in vars(rows.prefix).values()))
            outputs = tails.outputs + torch.stack([change for change, _ in found])[number, row, start.length :]
            which, places = number.cpu() + first, row.cpu()
            ends = last[places] - start.length
            logits = end_logits(cut.model, ends, partial(cut.suffix, outputs, tails, start.cache(which)))
            numbers = torch.tensor(batch)[places]
            right[which, numbers] = asker.right(logits, [asked[at] for at in numbers.tolist()])
        advance(len(batch))
    return right
