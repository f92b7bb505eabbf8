"""The evaluators of the one pass: known answers, a slow plain reference, and figures of SAELens's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import saebench
from saebench.lm import LanguageModel
from saebench.report.scorecard import Scorecard
from saebench.sae import JumpReLU, ReLU, SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.conftest import FIXTURES, HOOK


class Identity:
    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z


class Zero(Identity):
    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Constant(Zero):
    def __init__(self, value: Tensor) -> None:
        self.value = value

    def decode(self, z: Tensor) -> Tensor:
        return z + self.value


def run(sae: Any, model: LanguageModel, corpus: TokenCorpus, **settings: Any) -> Scorecard:
    card = saebench.evaluate(sae, model=model, hook=HOOK, corpus=corpus, progress=False, **settings)
    assert card.result.failures == {}
    return card


def counted_activations(model: LanguageModel, corpus: TokenCorpus) -> Tensor:
    return model.cut(HOOK).prefix(corpus.tokens).outputs[~corpus.excluded]


def test_identity_costs_nothing(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    card = run(Identity(), tiny_model, tiny_corpus)
    assert card["reconstruction.normalised_mse"] == 0
    assert card["reconstruction.normalised_mse_unit_norm"] == 0
    assert card["reconstruction.explained_variance"] == 1
    assert card["reconstruction.l2_ratio"] == pytest.approx(1)
    assert card["downstream.ce_difference"] == pytest.approx(0, abs=1e-6)
    assert card["downstream.kl_divergence"] == pytest.approx(0, abs=1e-6)
    assert card["downstream.loss_recovered"] == pytest.approx(1)
    assert card["downstream.top1_agreement"] == 1


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_the_mean_predictor_scores_one_whatever_the_offset(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, offset: float
) -> None:
    from saebench.evaluators.shared import Moments

    activations = counted_activations(tiny_model, tiny_corpus) + offset
    moments = Moments(1, 1)
    zeros = torch.zeros(activations.shape[0], dtype=torch.long)
    for part, group in zip(activations.split(50), zeros.split(50), strict=True):
        moments.update(part, group, 1, {"position": group, "frequency": group})
    expected = (activations.double() - activations.double().mean(0)).square().sum()
    assert moments.variance == pytest.approx(float(expected), rel=1e-6)
    assert float(moments.variance_by("position")[1]) == pytest.approx(float(expected), rel=1e-6)


def test_predicting_the_mean_is_the_unit_of_error(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    mean = counted_activations(tiny_model, tiny_corpus).mean(0)
    card = run(Constant(mean), tiny_model, tiny_corpus)
    assert card["reconstruction.normalised_mse"] == pytest.approx(1, rel=1e-5)
    assert card["reconstruction.explained_variance"] == pytest.approx(0, abs=1e-5)
    assert card["downstream.ce_spliced"] == pytest.approx(card["downstream.ce_mean_ablated"], rel=1e-5)
    assert card["downstream.loss_recovered_mean"] == pytest.approx(0, abs=1e-4) or (
        card["downstream.loss_recovered_mean"] is None
    )


def test_zero_reconstruction_is_the_zero_ablation(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    card = run(Zero(), tiny_model, tiny_corpus)
    assert card["downstream.ce_spliced"] == pytest.approx(card["downstream.ce_zero_ablated"], rel=1e-6)
    assert card["reconstruction.per_token_normalised_mse"] == pytest.approx(1)
    assert card["reconstruction.relative_reconstruction_bias"] is None
    assert card["reconstruction.dead_latents"] == 1
    assert card.metric("reconstruction.relative_reconstruction_bias").reason


def plain_reference(sae: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus) -> dict[str, float]:
    """Everything computed at once, densely, in float64, with a PyTorch hook on the model's own block."""
    blocks, seen, replacement = model.bridge.blocks, {}, {}

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        seen["activations"] = output
        return replacement.get("value")

    handle = blocks[1].register_forward_hook(hook)
    clean = model.logits(corpus.tokens).double()
    x = seen["activations"].double()
    pre = (x @ sae.W_enc.double() + sae.b_enc.double()).clamp_min(0)
    kth = pre.topk(8, dim=-1).values[..., -1:]
    z = pre * (pre >= kth)
    keep = ~corpus.excluded
    x_hat = torch.where(keep[..., None], z @ sae.W_dec.double() + sae.b_dec.double(), x)

    def losses(value: Tensor | None) -> tuple[Tensor, Tensor]:
        if value is not None:
            replacement["value"] = value.float()
        logits = model.logits(corpus.tokens).double()
        replacement.clear()
        each = F.cross_entropy(logits[:, :-1].flatten(0, 1), corpus.tokens[:, 1:].flatten(), reduction="none")
        return logits, each.view(corpus.tokens.shape[0], -1)[corpus.loss_mask].mean()

    spliced, ce_spliced = losses(x_hat)
    _, ce_clean = losses(None)
    _, ce_zero = losses(torch.where(keep[..., None], 0.0, x))
    mean = x[keep].mean(0)
    _, ce_mean = losses(torch.where(keep[..., None], mean, x))
    handle.remove()
    error, target = (x_hat - x)[keep], x[keep]
    kl = (clean.softmax(-1) * (clean.log_softmax(-1) - spliced.log_softmax(-1))).sum(-1)[keep]
    unit = F.normalize(target - target.mean(1, keepdim=True), dim=1)
    unit_error = error.square().sum(1) / (target - target.mean(1, keepdim=True)).square().sum(1)
    return {
        "reconstruction.normalised_mse": float(error.square().sum() / (target - mean).square().sum()),
        "reconstruction.normalised_mse_unit_norm": float(unit_error.sum() / (unit - unit.mean(0)).square().sum()),
        "reconstruction.mse": float(error.square().mean()),
        "reconstruction.per_token_normalised_mse": float((error.square().sum(1) / target.square().sum(1)).mean()),
        "reconstruction.cosine_similarity": float(F.cosine_similarity(x_hat[keep], target).mean()),
        "reconstruction.l2_ratio": float((x_hat[keep].norm(dim=1) / target.norm(dim=1)).mean()),
        "reconstruction.relative_reconstruction_bias": float(x_hat[keep].square().sum() / (x_hat[keep] * target).sum()),
        "reconstruction.l0": float((z[keep] > 0).sum(1).double().mean()),
        "reconstruction.l1": float(z[keep].sum(1).mean()),
        "reconstruction.dead_latents": float(((z[keep] > 0).sum(0) == 0).double().mean()),
        "reconstruction.dense_latents_10pct": float(((z[keep] > 0).double().mean(0) > 0.1).double().mean()),
        "downstream.ce_clean": float(ce_clean),
        "downstream.ce_spliced": float(ce_spliced),
        "downstream.ce_zero_ablated": float(ce_zero),
        "downstream.ce_mean_ablated": float(ce_mean),
        "downstream.kl_divergence": float(kl.mean()),
        "downstream.top1_agreement": float((clean.argmax(-1) == spliced.argmax(-1))[keep].double().mean()),
    }


def test_every_metric_agrees_with_the_plain_reference(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    sae = make_sae(b_enc=torch.linspace(-0.1, 0.1, 64), b_dec=torch.full((32,), 0.2))
    card = run(sae, tiny_model, tiny_corpus)
    for name, expected in plain_reference(sae, tiny_model, tiny_corpus).items():
        assert card[name] == pytest.approx(expected, rel=1e-4), name
    similarity = sae.W_dec @ sae.W_dec.T - 2 * torch.eye(64)
    assert card["reconstruction.max_decoder_similarity"] == pytest.approx(float(similarity.amax(1).mean()), rel=1e-5)
    assert card["reconstruction.encoder_decoder_cosine"] == pytest.approx(1)


def test_numbers_do_not_depend_on_the_batch(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    cards = [run(make_sae(), tiny_model, tiny_corpus, batch=batch) for batch in (1, 7, 24)]
    first = cards[0].frame()
    for other in cards[1:]:
        frame = other.frame()
        torch.testing.assert_close(
            torch.tensor(frame["value"].astype(float).fillna(-1).to_numpy()),
            torch.tensor(first["value"].astype(float).fillna(-1).to_numpy()),
            rtol=1e-5, atol=1e-6,
        )  # fmt: skip
        errors = [torch.tensor(each["standard_error"].astype(float).fillna(-1).to_numpy()) for each in (frame, first)]
        torch.testing.assert_close(*errors, rtol=1e-4, atol=1e-6)


def test_several_together_are_as_each_alone(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    saes = [
        make_sae(seed=1),
        make_sae(activation=ReLU(), seed=2),
        make_sae(n=40, activation=JumpReLU(torch.full((40,), 0.3))),
    ]
    together = saebench.evaluate(saes, model=tiny_model, hook=HOOK, corpus=tiny_corpus, progress=False)
    for sae, card in zip(saes, together, strict=True):
        alone = run(sae, tiny_model, tiny_corpus)
        assert {k: m.model_dump() for k, m in alone.result.evaluators["downstream"].metrics.items()} == {
            k: m.model_dump() for k, m in card.result.evaluators["downstream"].metrics.items()
        }


@pytest.mark.parametrize("hook", ["blocks.2.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.hook_resid_mid"])
def test_ablations_at_inner_hooks_are_whole_runs(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, hook: str) -> None:
    card = saebench.evaluate(Zero(), model=tiny_model, hook=hook, corpus=tiny_corpus, progress=False)
    assert card["downstream.ce_spliced"] == pytest.approx(card["downstream.ce_zero_ablated"], rel=1e-6)


def test_rows_with_different_beginnings_are_ablated_one_by_one(tiny_model: LanguageModel) -> None:
    rows = torch.randint(3, 200, (12, 10), generator=torch.Generator().manual_seed(2))
    corpus = make_corpus(rows, tiny_model.tokenizer, name="no BOS")
    card = run(Zero(), tiny_model, corpus)
    assert card["downstream.ce_spliced"] == pytest.approx(card["downstream.ce_zero_ablated"], rel=1e-6)


def test_agreement_with_saelens() -> None:
    """SAELens's `run_evals` on the same autoencoder, model and tokens (`fixtures/make_saelens_evals.py`)."""
    folder = FIXTURES / "saelens_evals"
    model = LanguageModel.load(str(folder / "model"))
    corpus = make_corpus(load_file(folder / "tokens.safetensors")["tokens"], model.tokenizer, name="fixture", exclude=False)
    card = saebench.evaluate(str(folder / "sae"), model=model, corpus=corpus, progress=False)
    theirs = json.loads((folder / "numbers.json").read_text())["numbers"]
    quality, losses = theirs["reconstruction_quality"], theirs["model_performance_preservation"]
    expected = {
        "reconstruction.explained_variance": quality["explained_variance"],
        "reconstruction.mse": quality["mse"] / 32,  # theirs is summed over the width
        "reconstruction.cosine_similarity": quality["cossim"],
        "reconstruction.l2_ratio": theirs["shrinkage"]["l2_ratio"],
        "reconstruction.l0": theirs["sparsity"]["l0"],
        "reconstruction.l1": theirs["sparsity"]["l1"],
        "downstream.ce_clean": losses["ce_loss_without_sae"],
        "downstream.ce_spliced": losses["ce_loss_with_sae"],
        "downstream.ce_zero_ablated": losses["ce_loss_with_ablation"],
        "downstream.loss_recovered": losses["ce_loss_score"],
        "downstream.kl_divergence": theirs["model_behavior_preservation"]["kl_div_with_sae"],
    }
    for name, value in expected.items():
        assert card[name] == pytest.approx(value, rel=1e-3), name


def test_a_perfect_transcoder_costs_nothing(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    """A transcoder that writes exactly the MLP's output is evaluated at the output, and spliced there."""

    class Mlp(Identity):
        def decode(self, z: Tensor) -> Tensor:
            out: Tensor = tiny_model.bridge.blocks[1].mlp(z)
            return out

    hooks = {"hook": "blocks.1.mlp.hook_in", "hook_out": "blocks.1.hook_mlp_out"}
    card = saebench.evaluate(Mlp(), model=tiny_model, corpus=tiny_corpus, progress=False, **hooks)
    assert card["reconstruction.normalised_mse"] == pytest.approx(0, abs=1e-9)
    assert card["downstream.ce_difference"] == pytest.approx(0, abs=1e-6)
    assert (card.result.sae.hook_in, card.result.sae.hook_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    zero = saebench.evaluate(Zero(), model=tiny_model, corpus=tiny_corpus, progress=False, **hooks)
    assert zero["downstream.ce_spliced"] == pytest.approx(zero["downstream.ce_zero_ablated"], rel=1e-6)
    assert abs(zero["downstream.ce_difference"] or 0) > 1e-3


def test_a_scorecard_shows_itself(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder], tmp_path: Any
) -> None:
    card = run(make_sae(), tiny_model, tiny_corpus)
    assert "normalised_mse" in repr(card) and "<table" in card._repr_html_()
    frame = card.frame()
    assert frame.loc[("reconstruction", "l0"), "value"] == card["reconstruction.l0"]
    card.save(tmp_path / "result.json")
    card.report(tmp_path / "page.html")
    assert saebench.read_result(tmp_path / "result.json") == card.result
    with pytest.raises(saebench.SaebenchError, match="has no metric"):
        card["reconstruction.nothing"]


def test_half_precision_models_are_evaluated_in_full_precision(tiny_corpus: TokenCorpus) -> None:
    model = LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"), dtype="bfloat16")
    card = run(Identity(), model, tiny_corpus)
    assert card["downstream.kl_divergence"] == pytest.approx(0, abs=1e-6)
    value = card["downstream.ce_clean"]
    assert value is not None and value != pytest.approx(round(value * 64) / 64, abs=1e-7)
    assert card.result.model.dtype == "bfloat16"
