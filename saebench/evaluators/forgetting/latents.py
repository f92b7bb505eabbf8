"""Which latents are of the text to forget, and what clamping them does to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.forgetting.questions import Asked, Asker, batches, padded
from saebench.lm import Cut
from saebench.lm.ends import end_logits
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


@torch.no_grad()
def clamped_answers(
    cut: Cut, sae: SparseAutoencoder, asker: Asker, asked: Sequence[Asked], settings: Sequence[tuple[Tensor, float]],
    advance: Callable[[float], None],
) -> Tensor:  # fmt: skip
    """``[settings, questions]`` bool: whether each question is answered right with each setting's latents clamped.

    A latent that is above 0 is set to minus the setting's value, in units of a decoder row of norm 1; everything else of the
    activations stays, and so does the first position. A question on which none of a setting's latents is above 0 is
    answered as without it, and is not run again.

    Args:
        cut: the language model.
        sae: the autoencoder.
        asker: of the questions.
        asked: questions that are answered right without any change.
        settings: latents (``[chosen]``) and clamp of each.
        advance: called with the number of questions of each batch.
    """
    right = torch.ones(len(settings), len(asked), dtype=torch.bool)
    for batch in batches(asked):
        some = [asked[at] for at in batch]
        tokens, last = padded(some)
        prefix = cut.prefix(tokens)
        code = sae.encode(prefix.inputs.flatten(0, 1).float())
        places = torch.arange(tokens.shape[1]).expand_as(tokens)
        live = ((places > 0) & (places <= last.unsqueeze(1))).flatten().to(code.values.device)
        for number, (latents, clamp) in enumerate(settings):
            chosen = torch.isin(code.indices, latents.to(code.indices.device)) & (code.values > 0) & live.unsqueeze(1)
            rows = chosen.any(dim=1).view(len(some), -1).any(dim=1).nonzero().flatten()
            if not rows.numel():
                continue
            change = clamp_change(sae, code, chosen, clamp)
            outputs = (prefix.outputs + change.view(*tokens.shape, -1).to(prefix.outputs.dtype))[rows]
            where, ends = rows.cpu(), last[rows.cpu()]
            logits = end_logits(cut.model, ends, partial(cut.suffix, outputs, prefix.rows(rows)))
            found = asker.right(logits, [some[at] for at in where.tolist()])
            right[number, torch.tensor(batch)[where]] = found
        advance(len(batch))
    return right
