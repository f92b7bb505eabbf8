"""Evaluating an autoencoder of one attention head against plain hooks of TransformerLens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import saebench
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus

HEAD = 2


@pytest.mark.parametrize("point", ["hook_q", "hook_z"])
def test_its_scores_are_those_of_plain_hooks(
    point: str, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    sae, place = make_sae(d=8, n=24, activation=TopK(3)), f"blocks.1.attn.{point}"
    result = saebench.evaluate(
        sae, model=tiny_model, hook=f"{place}.head_{HEAD}", corpus=tiny_corpus, evaluators=["reconstruction", "downstream"],
        progress=False, batch=7,
    ).result  # fmt: skip
    counted, seen = ~tiny_corpus.excluded, []

    def splice(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        x = activation[:, :, HEAD][counted]
        seen.append((x, sae.decode(sae.encode(x))))
        changed = activation.clone()
        heads = changed[:, :, HEAD].clone()
        heads[counted] = seen[0][1]
        changed[:, :, HEAD] = heads
        return changed

    with torch.no_grad():
        logits = tiny_model.bridge.run_with_hooks(tiny_corpus.tokens, fwd_hooks=[(place, splice)])
    losses = cross_entropy(logits[:, :-1].flatten(0, 1).double(), tiny_corpus.tokens[:, 1:].flatten(), reduction="none")
    wanted = tiny_corpus.loss_mask.flatten()
    assert result.metric("downstream.ce_spliced").value == pytest.approx(float(losses[wanted].mean()), rel=1e-5)
    x, reconstruction = seen[0]
    error = (reconstruction - x).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert result.metric("reconstruction.normalised_mse").value == pytest.approx(float(error), rel=1e-4)
    assert (result.sae.hook_in, result.sae.d_in) == (f"{place}.head_{HEAD}", 8)
