"""SAEBench's core metrics against its own formulas, written plainly over the whole text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import saebench
from saebench.evaluators.base import Measured
from saebench.evaluators.core import Core
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import FIXTURES, HOOK


def plain(sae: SparseAutoencoder, corpus: TokenCorpus) -> dict[str, float]:
    """SAEBench's definitions, with transformers alone, every position counted and replaced."""
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / "saelens_evals" / "model").eval()
    layer, tokens = model.model.layers[1], corpus.tokens
    seen: list[torch.Tensor] = []

    def run(change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        def hook(_: object, __: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
            first = output if isinstance(output, torch.Tensor) else output[0]
            seen.append(first)
            return change(first) if isinstance(output, torch.Tensor) else (change(first), *output[1:])

        handle = layer.register_forward_hook(hook)
        with torch.no_grad():
            logs = model(tokens).logits.log_softmax(dim=-1)
        handle.remove()
        losses = -logs[:, :-1].gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
        return logs, losses.mean()

    clean, ce_clean = run(lambda x: x)
    x = seen[0].flatten(0, 1)
    out = sae.decode(sae.encode(x), x)
    spliced, ce_spliced = run(lambda given: out.view_as(given))
    ablated, ce_ablated = run(torch.zeros_like)
    kl, kl_ablated = ((clean.exp() * (clean - other)).sum(dim=-1).mean() for other in (spliced, ablated))
    residual, n = (x - out).square().sum(dim=1), x.shape[0]
    dense = sae.encode(x).to_dense()
    density = (dense > 0).float().mean(dim=0)
    total = x.square().sum(dim=1).mean() - x.square().mean() ** 2
    cosines = torch.nn.functional.normalize(sae.W_enc, dim=0)
    alike = cosines.T @ cosines - 2 * torch.eye(sae.n_latents)
    found = {
        "kl_div_with_sae": kl, "kl_div_with_ablation": kl_ablated, "kl_div_score": (kl_ablated - kl) / kl_ablated,
        "ce_loss_with_sae": ce_spliced, "ce_loss_without_sae": ce_clean, "ce_loss_with_ablation": ce_ablated,
        "ce_loss_score": (ce_ablated - ce_spliced) / (ce_ablated - ce_clean),
        "explained_variance_saebench": 1 - residual.mean() / total,
        "explained_variance": 1 - residual.sum() / (x - x.mean(dim=0)).square().sum(),
        "mse": residual.mean(), "mse_saebench": (residual / n).mean(),
        "cossim": torch.nn.functional.cosine_similarity(x, out).mean(),
        "l2_norm_in": x.norm(dim=1).mean(), "l2_norm_out": out.norm(dim=1).mean(),
        "l2_ratio": (out.norm(dim=1) / x.norm(dim=1)).mean(),
        "relative_reconstruction_bias": out.square().sum(dim=1).mean() / (x * out).sum(dim=1).mean(),
        "l0": (dense != 0).sum(dim=1).float().mean(), "l1": dense.sum(dim=1).mean(),
        "freq_over_1_percent": (density > 0.01).float().mean(),
        "normalized_freq_over_10_percent": density[density > 0.1].sum() / density.sum(),
        "frac_alive": (density > 0).float().mean(),
        "average_max_encoder_cosine_sim": alike.max(dim=1).values.mean(),
    }  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def test_every_metric_is_saebenchs_own_or_its_correction(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    corpus = replace(
        tiny_corpus, excluded=torch.zeros_like(tiny_corpus.excluded), loss_mask=torch.ones_like(tiny_corpus.loss_mask)
    )
    sae = make_sae()
    found = saebench.evaluate(sae, model=tiny_model, hook=HOOK, corpus=corpus, evaluators=["core"]).result
    metrics = found.evaluators["core"].metrics
    for name, value in plain(sae, corpus).items():
        assert metrics[name].value == pytest.approx(value, rel=2e-4, abs=1e-6), name
    again = {metric.name: metric for metric in Core.recomputed(found.evaluators["core"], Measured.of(found))}
    assert set(again) == set(metrics)
    for name, metric in metrics.items():
        assert again[name].value == pytest.approx(metric.value, rel=1e-5, abs=1e-6), name


def test_it_agrees_with_the_other_evaluators_where_positions_are_excluded(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    names = ["core", "reconstruction", "downstream"]
    saes = [make_sae(), make_sae(activation=TopK(3))]
    cards = saebench.evaluate(saes, model=tiny_model, hook=HOOK, corpus=tiny_corpus, evaluators=names)
    for card in cards:
        for own, other in (
            ("explained_variance", "reconstruction.explained_variance"), ("cossim", "reconstruction.cosine_similarity"),
            ("l0", "reconstruction.l0"), ("frac_alive", "reconstruction.fraction_seen"),
            ("kl_div_with_sae", "downstream.kl_divergence"), ("ce_loss_score", "downstream.loss_recovered"),
        ):  # fmt: skip
            assert card.metric(f"core.{own}").value == pytest.approx(card.metric(other).value, rel=1e-5), own
    first, second = (card.metric("core.kl_div_with_ablation") for card in cards)
    assert first.value == second.value  # computed once, for all
