"""An autoencoder of the tiny model whose latents are active on exactly one word each, and its activating examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from saebench.explaining.examples.collecting import ExampleSettings, collect, write_examples
from saebench.explaining.examples.folder import ActivatingExamples
from saebench.lm import Cut, LanguageModel
from saebench.progress import Progress
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus

EMBEDDINGS = "blocks.0.hook_resid_pre"
WORDS, DEAD, EVERYWHERE, RARE = 6, 6, 7, 8
"""Latents 0 to 5 are active on the words w10 to w15, each with 1.0; then one never, one always, one on a rare word."""


def word_sae(model: LanguageModel, words: list[int]) -> SparseAutoencoder:
    """Latents that read the embeddings, each active with 1.0 on one token; of random directions otherwise."""
    embeddings = model.cut(EMBEDDINGS).prefix(torch.tensor([words])).inputs[0].float()
    n, width = embeddings.shape
    activation = JumpReLU(torch.full((n,), 0.9))
    info = CheckpointInfo("planted", "saebench", activation.name, width, width, n, activation.describe(), hook_in=EMBEDDINGS)
    return SparseAutoencoder(
        W_enc=(embeddings / embeddings.square().sum(dim=1, keepdim=True)).T.contiguous(),
        W_dec=torch.nn.functional.normalize(embeddings, dim=1), b_enc=torch.zeros(n), b_dec=torch.zeros(width),
        activation=activation, info=info,
    )  # fmt: skip


def planted_sae(model: LanguageModel) -> SparseAutoencoder:
    sae = word_sae(model, [*range(10, 10 + WORDS), 0, 0, 199])
    encoder, bias = sae.W_enc.clone(), sae.b_enc.clone()
    encoder[:, [DEAD, EVERYWHERE]] = 0.0
    bias[EVERYWHERE] = 1.0
    return replace(sae, W_enc=encoder, b_enc=bias)


def planted_corpus(model: LanguageModel, rows: int = 300) -> TokenCorpus:
    """Random words; the rare one stands in four places."""
    tokens = torch.randint(3, 199, (rows, 64), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = 1
    tokens[::80, 40] = 199
    return make_corpus(tokens, model.tokenizer, name="random words", bos="row")


def planted_examples(model: LanguageModel, folder: Path) -> tuple[SparseAutoencoder, Cut, TokenCorpus, ActivatingExamples]:
    sae, cut, corpus = planted_sae(model), model.cut(EMBEDDINGS), planted_corpus(model)
    found = collect(sae, cut, corpus, ExampleSettings.defined(), 50, Progress(False))
    return sae, cut, corpus, write_examples(found, folder)
