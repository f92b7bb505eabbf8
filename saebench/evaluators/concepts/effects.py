"""Which latents a linear probe reads, and what it reads without them.

The mean over a text's tokens commutes with a linear probe and with the decoder: a probe's logit on the mean activation,
with the autoencoder's error kept and some latents set to 0, is the clean logit minus the pooled latents times the dot
products of their decoder rows with the probe. No text is decoded, and all numbers of latents come from one sparse code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import Setup
from saebench.probing.linear import Dense, Examples, Fitted, linear_logits
from saebench.probing.pooled import pooled_texts
from saebench.probing.problems import Split
from saebench.probing.protocol import TextLimits
from saebench.sae import SparseAutoencoder, context_of


def check_writes_where_it_reads(setup: Setup, evaluator: str) -> None:
    """Raise ``SaebenchError`` for an autoencoder whose decoder writes at another place than the probes read."""
    if setup.cut.hook_in.name != setup.cut.hook_out.name or context_of(setup.sae) is not None:
        raise SaebenchError(
            f"The evaluator {evaluator} ablates latents in the activations that its probes read, but this autoencoder reads "
            "something else than it reconstructs: leave the evaluator out."
        )


@dataclass(frozen=True)
class Concepts:
    """Pooled texts of a set and their probes.

    Attributes:
        activations: ``[texts, d]`` float32, means over tokens.
        latents: ``[texts, n]``, means over tokens, in the activations' units.
        decoder: ``[n, d]`` float32.
        fitted: the probes.
    """

    activations: Tensor
    latents: csr_array
    decoder: Tensor
    fitted: Fitted

    def effects(self, probe: int, train: Split, signed: bool) -> Tensor:
        """``[n]`` float64: the difference of a latent's means over the classes times its decoder row's dot product.

        Args:
            probe: number of the probe.
            train: texts and labels; ``signed``: whether a difference below 0 counts as 0 and the effect has a sign (targeted
                perturbation), else its magnitude is taken (spurious correlations).
            signed: see ``train``.
        """
        labels = train.labels.double().numpy()
        weights = labels / labels.sum() - (1 - labels) / (1 - labels).sum()
        difference = torch.from_numpy(np.asarray(self.latents[train.rows.numpy()].T @ weights))
        dots = (self.decoder @ self.fitted.weight[probe]).double()
        return difference.clamp_min(0) * dots if signed else (difference * dots).abs()

    def logits(self, probe: int, test: Split) -> Tensor:
        """``[texts]``: a probe's clean logits."""
        one = Fitted(*(each[probe : probe + 1] for each in self.fitted))
        return linear_logits(Dense(self.activations), one, test.rows.unsqueeze(0))[0]

    def changes(self, chosen: Tensor) -> Tensor:
        """``[texts, probes]``: what the latents ``chosen`` add to the logits."""
        own = csc_array(self.by_column[:, chosen.numpy()])
        dots = (self.decoder[chosen] @ self.fitted.weight.T).numpy()
        return torch.from_numpy(np.asarray(own @ dots))

    @cached_property
    def by_column(self) -> csc_array:
        """The latents, stored by latent."""
        return csc_array(self.latents)


def largest(effects: Tensor, n: int) -> Tensor:
    """The ``n`` latents of largest effect; those without any are never taken."""
    some = effects.nonzero().squeeze(1)
    return some[effects[some].topk(min(n, some.numel())).indices]


def concepts(
    setup: Setup, texts: list[str], limits: TextLimits, bos: bool, fitted: Fitted, advance: Callable[[float], None]
) -> Concepts:
    """Pool and encode a set's texts."""
    sae = setup.sae
    assert isinstance(sae, SparseAutoencoder)
    pooled = pooled_texts(setup.cut, texts, limits, "mean", bos, sae, advance, scaled=True)
    assert pooled.latents is not None
    return Concepts(pooled.activations, pooled.latents, sae.W_dec.detach().float().cpu(), fitted)


def together(splits: list[Split]) -> Examples:
    """Training texts of several probes, which have equally many."""
    return Examples(torch.stack([each.rows for each in splits]), torch.stack([each.labels for each in splits]))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Float64 of the shape of ``logits``: 1 where a probe is right."""
    return ((logits > 0) == (labels == 1)).double()


def paired(before: Tensor, after: Tensor) -> list[float]:
    """``[mean fall, its standard error]`` of right answers, over the same texts."""
    return paired_by_probe(before.unsqueeze(0), after.unsqueeze(0))[0]


def paired_by_probe(before: Tensor, after: Tensor) -> list[list[float]]:
    """``paired`` of each row of ``[probes, texts]``."""
    falls = before - after
    errors = falls.std(dim=1, unbiased=True) / falls.shape[1] ** 0.5
    found: list[list[float]] = torch.stack([falls.mean(dim=1), errors], dim=1).tolist()
    return found
