"""The latents of an attribute: a differentiable binary mask, trained on swaps, and swaps with the latents it selects.

Source: SAEBench's multi-task differentiable binary mask (MDBM), after Chaudhary and Geiger 2024, arXiv 2409.04478.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.evaluators.entities.answers import ask
from saebench.evaluators.entities.pairs import Pairs
from saebench.evaluators.entities.passes import Passes
from saebench.evaluators.entities.protocol import MaskSection
from saebench.lm import Prefix
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

    def outputs(self, pairs: Pairs, shares: Tensor, which: Tensor) -> Tensor:
        """``[pairs, d_out]``: each latent is partly the source's and the rest the base's.

        Args:
            pairs: the pairs.
            shares: ``[attributes, n]``, from 0 to 1: how far latents are the source's.
            which: ``[pairs]``, the row of ``shares`` for each pair.
        """
        given, taken = (self._part(self.code.rows(rows), shares, which) for rows in (pairs.source, pairs.base))
        return self._whole[pairs.base] + given - taken

    def _part(self, code: SparseLatents, shares: Tensor, which: Tensor) -> Tensor:
        """What the latents write, each multiplied by its share, in the model's units."""
        if code.indices.shape[1] == 0:
            return code.values.new_zeros(code.indices.shape[0], self.sae.d_out)
        values = code.values.float() * shares[which.to(shares.device).unsqueeze(1), code.indices]
        if code.factor is not None:
            values = values * code.factor
        return F.embedding_bag(code.indices, self.sae.W_dec.float(), per_sample_weights=values, mode="sum")


def train_mask(
    passes: Passes, swaps: Swaps, pairs: Pairs, settings: MaskSection, advance: Callable[[float], None]
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
            shares = torch.sigmoid(mask / temperature).unsqueeze(0)
            logits = _logits(passes, some, swaps.outputs(some, shares, torch.zeros_like(some.base)))
            loss = F.cross_entropy(logits.float(), some.target.to(logits.device))
            (mask.grad,) = torch.autograd.grad(loss, mask)  # none for the language model's weights
        optimizer.step()
        advance(1)
    return (mask > 0).detach()


def _logits(passes: Passes, pairs: Pairs, outputs: Tensor) -> Tensor:
    """``[pairs, V]`` at the end of each base, with ``outputs`` (``[pairs, d_out]``) at its entity."""
    numbers = pairs.base.tolist()
    prefix = passes.of(numbers)
    return passes.rows.logits(numbers, _replaced(passes, numbers, prefix, outputs), prefix)


def _replaced(passes: Passes, numbers: Sequence[int], prefix: Prefix, outputs: Tensor) -> Tensor:
    """The activations at the cut in the prompts' tails, with ``outputs`` at each one's entity."""
    device = prefix.outputs.device
    places = torch.tensor([passes.prompts[number].position - passes.rows.start(number) for number in numbers], device=device)
    return prefix.outputs.index_put((torch.arange(len(numbers), device=device), places), outputs.to(prefix.outputs))


@torch.no_grad()
def score_pairs(
    passes: Passes, swaps: Swaps, scored: Sequence[Pairs], chosen: Sequence[Tensor], steps: int,
    advance: Callable[[float], None],
) -> list[Tensor]:  # fmt: skip
    """``[pairs]`` bool for each attribute: whether the completion after the swap is the right one.

    Args:
        passes: of the prompts.
        swaps: of the autoencoder.
        scored: the pairs of each attribute; those of similar lengths run together.
        chosen: ``[n]`` bool, the latents of each attribute.
        steps: tokens that are generated.
        advance: called with the number of pairs of each batch.
    """
    sizes = [each.base.numel() for each in scored]
    every, shares = Pairs.together(scored), torch.stack(list(chosen)).float()
    which = torch.arange(len(scored)).repeat_interleave(torch.tensor(sizes))
    right, prompts = torch.zeros(sum(sizes), dtype=torch.bool), passes.prompts
    for batch in passes.rows.batches(every.base.tolist()):
        some = every.rows(torch.tensor(batch))
        numbers = some.base.tolist()
        prefix = passes.of(numbers)
        outputs = _replaced(passes, numbers, prefix, swaps.outputs(some, shares, which[batch]))
        wanted = torch.where(some.cause, some.source, some.base).tolist()
        asked = [(prompts[base].text, prompts[label].label) for base, label in zip(numbers, wanted, strict=True)]
        right[batch] = torch.tensor(ask(passes.rows, numbers, asked, steps, outputs, prefix)[1])
        advance(len(batch))
    return list(right.split(sizes))
