"""A latent's activation at the end of many short texts: the one thing Neuron2Graph asks of the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.explaining.packing import heeds_trees, pack, run_packed, worth_packing
from saebench.lm import Cut
from saebench.sae import Autoencoder, SparseAutoencoder
from saebench.sae.activations import Elementwise

TOKENS_PER_BATCH = 2048


class LatentReader:
    """Runs the layers below the hook on batches of equally long texts and encodes their last positions.

    The code is that of the whole dictionary where latents compete, so that a latent outside the top k counts as 0; where
    each decides alone, only the latents asked for are encoded. Texts that several latents ask for are run once, and so are
    beginnings that texts share, where the model can do it.

    Attributes:
        packs: whether beginnings are shared; found out by a trial.
        asked: readings so far; ``texts`` and ``tokens``: what was run for them.
    """

    def __init__(self, cut: Cut, sae: Autoencoder, bos: int | None) -> None:
        self.cut, self.sae, self.bos = cut, sae, bos
        self.packs = heeds_trees(cut, torch.arange(3, 11))
        self.asked = self.texts = self.tokens = 0

    @torch.no_grad()
    def read(self, texts: Tensor, latents: Tensor) -> Tensor:
        """Activations ``[readings]`` float64, at the last token of each text.

        Args:
            texts: ``[readings, length]``, without the BOS that is put in front of each.
            latents: ``[readings]``, the latent asked for.
        """
        unique, inverse = torch.unique(texts, dim=0, return_inverse=True)
        if self.bos is not None:
            unique = F.pad(unique, (1, 0), value=self.bos)
        found = torch.zeros(texts.shape[0], dtype=torch.float64)
        start = 0
        for x in self._activations(unique):
            stop = start + x.shape[0]
            readings = ((inverse >= start) & (inverse < stop)).nonzero().squeeze(1)
            found[readings] = self._values(x, inverse[readings] - start, latents[readings])
            start = stop
        self.asked += texts.shape[0]
        self.texts += unique.shape[0]
        return found

    def _activations(self, texts: Tensor) -> Iterator[Tensor]:
        """``[some texts, d_in]`` float32 at the last tokens of sorted, different ``texts``, in their order."""
        if not (self.packs and worth_packing(texts)):
            for some in texts.split(max(1, TOKENS_PER_BATCH // texts.shape[1])):
                self.tokens += some.numel()
                yield self.cut.prefix(some).inputs[:, -1].float()
            return
        packs = pack(texts)
        sizes = torch.tensor([each.tokens.numel() for each in packs])
        numbers = torch.arange(texts.shape[0]).split([each.ends.numel() for each in packs])
        found = torch.empty(texts.shape[0], self.sae.d_in)
        for some in sizes.argsort(stable=True).split(max(1, TOKENS_PER_BATCH // int(sizes.max()))):  # alike: little padding
            group = [packs[each] for each in some.tolist()]
            found[torch.cat([numbers[each] for each in some.tolist()])] = run_packed(self.cut, group).float().cpu()
        self.tokens += int(sizes.sum())
        yield from found.to(self.cut.model.device).split(TOKENS_PER_BATCH)

    def _values(self, x: Tensor, places: Tensor, latents: Tensor) -> Tensor:
        """``[readings]``: of activations ``x`` (``[texts, d]``), latent ``latents[i]`` at text ``places[i]``."""
        sae = self.sae
        if isinstance(sae, SparseAutoencoder) and isinstance(sae.activation, Elementwise):
            wanted, latents = torch.unique(latents, return_inverse=True)
            sae = narrowed(sae, wanted)
        code = sae.encode(x)
        here = code.indices.cpu()[places] == latents.unsqueeze(1)
        return (code.values.double().cpu()[places] * here).sum(dim=1)


def narrowed(sae: SparseAutoencoder, latents: Tensor) -> SparseAutoencoder:
    """The autoencoder of some latents (``[wanted]``) alone, in that order, where each latent decides for itself."""
    activation = copy.copy(sae.activation)
    for name, value in vars(activation).items():
        if isinstance(value, Tensor):
            object.__setattr__(activation, name, value[latents])
    return replace(
        sae,
        W_enc=sae.W_enc[:, latents],
        W_dec=sae.W_dec[latents],
        b_enc=sae.b_enc[latents],
        activation=activation,
        info=replace(sae.info, n_latents=latents.numel()),
    )
