"""A latent's activation at the end of many short texts: the only quantity that Neuron2Graph needs from the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.explaining.n2g.packing import Texts, run_texts, tree_trouble
from saebench.lm import Cut
from saebench.notices import notice
from saebench.sae import Autoencoder, SparseAutoencoder
from saebench.sae.activations import Elementwise


class LatentReader:
    """Runs the layers below the hook on batches of texts and encodes their last positions.

    The whole dictionary is encoded where latents compete, so that a latent outside the top k counts as 0; with elementwise
    activation functions only the requested latents are encoded. Texts that several latents request are run once, and so
    are common prefixes of texts; prefix trees only if the model supports them.

    Attributes:
        trees: whether texts with common prefixes are run as trees; determined by a test.
        shares: whether something is gained by texts with common prefixes; not where ends need no pass over their texts.
        asked: readings so far; ``texts`` and ``tokens``: texts and tokens that were run for them.
    """

    def __init__(self, cut: Cut, sae: Autoencoder, bos: int | None) -> None:
        self.cut, self.sae, self.bos = cut, sae, bos
        some = torch.arange(3, 11)
        trouble = tree_trouble(cut, some)
        self.trees, self.shares = trouble is None, cut.at_ends(some.unsqueeze(0), torch.tensor([some.numel()])) is None
        if trouble is not None:
            notice(
                "Neuron2Graph runs each of its texts alone, more slowly and with the same numbers: "
                f"{cut.model.name} does not compute texts that share a beginning together ({trouble})."
            )
        self.asked = self.texts = self.tokens = 0

    @torch.no_grad()
    def read(self, table: Tensor, latents: Tensor, done: Callable[[int], object] = lambda readings: None) -> Tensor:
        """Activations ``[readings]`` float64, at the last token of each text.

        Args:
            table: ``[readings, width]``, texts without the BOS that is prepended to each, followed by ``END``.
            latents: ``[readings]``, the requested latent.
            done: called with the number of readings of each batch.
        """
        unique, inverse = torch.unique(table, dim=0, return_inverse=True)
        texts = Texts(unique if self.bos is None else F.pad(unique, (1, 0), value=self.bos))
        found = torch.zeros(table.shape[0], dtype=torch.float64)
        for numbers, x, tokens in run_texts(self.cut, texts, self.trees):
            self.tokens += tokens
            places = torch.full((unique.shape[0],), -1)
            places[numbers] = torch.arange(numbers.numel())
            readings = (places[inverse] >= 0).nonzero().squeeze(1)
            found[readings] = self._values(x, places[inverse[readings]], latents[readings])
            done(readings.numel())
        self.asked += table.shape[0]
        self.texts += unique.shape[0]
        return found

    def _values(self, x: Tensor, places: Tensor, latents: Tensor) -> Tensor:
        """``[readings]``: of activations ``x`` (``[texts, d]``), latent ``latents[i]`` at text ``places[i]``."""
        sae = self.sae
        if isinstance(sae, SparseAutoencoder) and isinstance(sae.activation, Elementwise):
            wanted, latents = torch.unique(latents, return_inverse=True)
            sae = select_latents(sae, wanted)
        code = sae.encode(x)
        here = code.indices.cpu()[places] == latents.unsqueeze(1)
        return (code.values.double().cpu()[places] * here).sum(dim=1)


def select_latents(sae: SparseAutoencoder, latents: Tensor) -> SparseAutoencoder:
    """The autoencoder of some latents (``[wanted]``) alone, in that order; for elementwise activation functions."""
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
