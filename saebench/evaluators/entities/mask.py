"""The latents of an attribute: a differentiable binary mask, trained on swaps, and swaps with the latents it selects.

Source: SAEBench's multi-task differentiable binary mask (MDBM), after Chaudhary and Geiger 2024, arXiv 2409.04478.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.entities.answers import is_right
from saebench.evaluators.entities.data import Prompt
from saebench.evaluators.entities.pairs import Pairs, by_length
from saebench.evaluators.entities.protocol import MaskSection
from saebench.lm import Cut, Prefix
from saebench.lm.ends import end_logits
from saebench.lm.generation import generate
from saebench.sae import SparseAutoencoder, SparseLatents


class Swaps:
    """Activations of a base's entity with some latents taken from a source's.

    The autoencoder's error is left out, as in the source.

    Args:
        sae: the autoencoder.
        inputs: ``[prompts, d_in]``, activations at the entity's last token of every prompt.
    """

    def __init__(self, sae: SparseAutoencoder, inputs: Tensor) -> None:
        self.sae = sae
        inputs = inputs.to(sae.W_dec.device)
        self.code = sae.encode(inputs)
        self._whole = sae.decode(self.code, inputs).float()

    def outputs(self, pairs: Pairs, share: Tensor) -> Tensor:
        """``[pairs, d_out]``: each latent is ``share`` (``[n]``, from 0 to 1) the source's and the rest the base's."""
        given, taken = self._part(self.code.rows(pairs.source), share), self._part(self.code.rows(pairs.base), share)
        return self._whole[pairs.base] + given - taken

    def _part(self, code: SparseLatents, share: Tensor) -> Tensor:
        """What the latents write, each multiplied by its share, in the model's units."""
        if code.indices.shape[1] == 0:
            return code.values.new_zeros(code.indices.shape[0], self.sae.d_out)
        values = code.values.float() * share[code.indices]
        if code.factor is not None:
            values = values * code.factor
        return F.embedding_bag(code.indices, self.sae.W_dec.float(), per_sample_weights=values, mode="sum")


def train_mask(
    cut: Cut, prompts: Sequence[Prompt], swaps: Swaps, pairs: Pairs, settings: MaskSection, advance: Callable[[float], None]
) -> Tensor:
    """``[n]`` bool: the selected latents.

    Each latent's share is ``sigmoid(mask / temperature)``; the temperature falls from 1, so that shares become 0 or 1. The
    loss is the cross-entropy of the answer's first token. A latent that no pair moves stays at exactly 0, unselected.
    """
    mask = torch.zeros(swaps.sae.n_latents, device=swaps.sae.W_dec.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=settings.learning_rate)
    batches = torch.arange(pairs.base.numel()).split(settings.batch)
    temperatures = torch.logspace(0, float(torch.tensor(settings.last_temperature).log10()), settings.epochs * len(batches))
    for step, temperature in enumerate(temperatures.tolist()):
        some = pairs.rows(batches[step % len(batches)])
        with torch.enable_grad():
            outputs = swaps.outputs(some, torch.sigmoid(mask / temperature))
            logits = _logits(cut, prompts, some, outputs)
            loss = F.cross_entropy(logits.float(), some.target.to(logits.device))
            (mask.grad,) = torch.autograd.grad(loss, mask)  # none for the language model's weights
        optimizer.step()
        advance(1)
    return (mask > 0).detach()


def _logits(cut: Cut, prompts: Sequence[Prompt], pairs: Pairs, outputs: Tensor) -> Tensor:
    """``[pairs, V]`` at the end of each base, with ``outputs`` (``[pairs, d_out]``) at its entity.

    Rows are padded on the right, where causal attention does not see the padding.
    """
    own = [prompts[index] for index in pairs.base.tolist()]
    width = max(len(each.ids) for each in own)
    tokens = torch.tensor([[*each.ids, *[0] * (width - len(each.ids))] for each in own])
    prefix = cut.prefix(tokens)
    ends = torch.tensor([len(each.ids) - 1 for each in own])
    return end_logits(cut.model, ends, partial(cut.differentiable_suffix, _replaced(prefix, own, outputs), prefix))


def _replaced(prefix: Prefix, prompts: Sequence[Prompt], outputs: Tensor) -> Tensor:
    """The activations at the cut with ``outputs`` at each prompt's entity."""
    rows = torch.arange(len(prompts), device=prefix.outputs.device)
    places = torch.tensor([each.position for each in prompts], device=prefix.outputs.device)
    return prefix.outputs.index_put((rows, places), outputs.to(prefix.outputs))


@torch.no_grad()
def score_pairs(
    cut: Cut, prompts: Sequence[Prompt], swaps: Swaps, pairs: Pairs, chosen: Tensor, steps: int,
    advance: Callable[[float], None],
) -> Tensor:  # fmt: skip
    """``[pairs]`` bool: whether the completion after the swap is the right one."""
    right = torch.zeros(pairs.base.numel(), dtype=torch.bool)
    share = chosen.float()
    for batch in by_length(prompts, pairs.base.tolist()):
        some = pairs.rows(torch.tensor(batch))
        own = [prompts[index] for index in some.base.tolist()]
        tokens = torch.tensor([each.ids for each in own])
        prefix = cut.prefix(tokens)
        found = generate(cut, tokens, steps, _replaced(prefix, own, swaps.outputs(some, share)), prefix)
        texts = cut.model.tokenizer.batch_decode(found)
        wanted = torch.where(some.cause, some.source, some.base).tolist()
        right[batch] = torch.tensor(
            [is_right(each.text, prompts[label].label, text) for each, label, text in zip(own, wanted, texts, strict=True)]
        )
        advance(len(batch))
    return right
