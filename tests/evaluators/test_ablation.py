from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from saebench.errors import SaebenchError
from saebench.evaluators.ablation import Ablation
from saebench.evaluators.base import Setup
from saebench.evaluators.shared import make_shared
from saebench.evaluators.splicing.interventions import Interventions, SplicedRow, sample_tokens, zeroed_channels
from saebench.lm import LanguageModel, Prefix
from saebench.results import EvaluatorResult
from saebench.sae import CheckpointInfo, ReLU, SparseAutoencoder, TopK
from saebench.sae.scaling import InputScaling
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.conftest import FIXTURES, HOOK
from tests.evaluators.helpers import PlainSae, result_of
from tests.evaluators.slow_ablation import ablate

SMALL = {"tokens": 6, "tokens_per_row": 2, "horizon": 5, "baselines_per_token": 3, "latents_per_token": 64}


def run(
    sae: Any, model: LanguageModel, corpus: TokenCorpus, hook: str = HOOK, seed: int = 0, **options: int
) -> EvaluatorResult:
    return result_of("ablation", sae, model, corpus, SMALL | options, hook=hook, seed=seed)


def test_equals_the_plain_model_run_again_for_each_latent(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    sae = make_sae(scaling=InputScaling("layer_norm"))
    result = run(sae, tiny_model, tiny_corpus)
    assert result.settings["key_value_cache"] is True
    plain = AutoModelForCausalLM.from_pretrained(FIXTURES / "saelens_evals" / "model").eval()
    expected: list[float] = []
    by_token = result.details["by_token"]
    for row, position, count, mean in zip(*by_token.values(), strict=True):
        found, _ = ablate(plain, 1, sae, tiny_corpus.tokens[row], tiny_corpus.excluded[row], position, 5)
        assert count == len(found) == 8
        assert mean == pytest.approx(sum(found.values()) / 8, rel=1e-4)
        expected.extend(found.values())
    assert len(by_token["row"]) == 6
    assert result.metrics["sparsity"].value == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert result.metrics["sparsity"].n == 48


@pytest.mark.parametrize("cached", [True, False])
def test_single_ablations_and_channels_equal_the_plain_ones(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder], cached: bool
) -> None:
    sae, cut = make_sae(), tiny_model.cut(HOOK)
    tokens, excluded = tiny_corpus.tokens[5], tiny_corpus.excluded[5]
    plain = AutoModelForCausalLM.from_pretrained(FIXTURES / "saelens_evals" / "model").eval()
    by_latent, by_channel = ablate(plain, 1, sae, tokens, excluded, 4, 6)
    row = SplicedRow.make(sae, cut, tokens, excluded)
    interventions = Interventions(cut, 6, batch=3)
    interventions.cached = cached
    latents, without = row.without_each(sae, 4, 64, torch.Generator())
    found = interventions.effects(interventions.start(row.outputs, row.prefix), 4, without).sparsity
    assert latents.tolist() == sorted(by_latent)
    assert found.tolist() == pytest.approx([by_latent[index] for index in sorted(by_latent)], rel=1e-4)
    clean = interventions.start(row.prefix.outputs, row.prefix)
    zeroed = zeroed_channels(row.prefix.outputs[0, 4], 32, torch.Generator().manual_seed(0))
    channels = (zeroed == 0).float().argmax(dim=1).tolist()
    measured = dict(zip(channels, interventions.effects(clean, 4, zeroed).sparsity.tolist(), strict=True))
    assert [measured[channel] for channel in by_channel] == pytest.approx(list(by_channel.values()), rel=1e-4)


class IdentityCut:
    """A model whose logits are the activations at its hook: what is written into channel v changes word v alone."""

    def __init__(self, width: int) -> None:
        self.d_in = self.d_out = width
        self.first_layer_above = 0
        self.model = SimpleNamespace(dtype=torch.float64, device=torch.device("cpu"), n_layers=0)

    def prefix(self, tokens: Tensor) -> Prefix:
        values = torch.nn.functional.one_hot(tokens, self.d_in).double() + 0.5
        return Prefix(tokens, values, values, values)

    def suffix(self, outputs: Tensor, prefix: Prefix, cache: Any = None) -> Tensor:
        return outputs.clone()


def test_a_latent_that_writes_one_word_has_the_smallest_sparsity(tiny_model: LanguageModel) -> None:
    width, horizon = 40, 4
    rows = torch.randint(3, width, (6, 12), generator=torch.Generator().manual_seed(0))
    corpus = make_corpus(rows, tiny_model.tokenizer, name="random")
    eye = torch.eye(width, dtype=torch.float64)
    info = CheckpointInfo("eye", "saebench", "topk", width, width, width, {}, hook_in=HOOK)
    zeros = torch.zeros(width, dtype=torch.float64)
    sae = SparseAutoencoder(eye, eye.clone(), zeros, zeros, ReLU(), info)
    options = {"tokens": 4, "tokens_per_row": 2, "horizon": horizon, "baselines_per_token": 2, "latents_per_token": 64}
    setup = Setup(sae, IdentityCut(width), corpus, make_shared(corpus, width), 0, options)  # type: ignore[arg-type]
    Ablation.check(setup)
    metrics = Ablation(setup).compute().metrics
    assert metrics["sparsity"].value == pytest.approx(1 / (width * horizon), rel=1e-6)
    assert metrics["sparsity"].standard_error == pytest.approx(0, abs=1e-9)
    assert metrics["sparsity"].n == 4 * width
    assert metrics["sparsity_by_latent"].n == width
    assert metrics["channel_sparsity"].value == pytest.approx(1 / (width * horizon), rel=1e-6)
    random = metrics["random_direction_sparsity"].value
    assert random is not None and 0.4 / horizon < random < 0.9 / horizon  # a Gaussian's (L1 / L2)^2 is 2 / pi of its length


def test_the_excess_is_paired_by_row(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    result = run(make_sae(), tiny_model, tiny_corpus)
    excess, own = result.metrics["sparsity_excess"], result.metrics["sparsity"]
    other = result.metrics["random_direction_sparsity"]
    assert excess.value == pytest.approx(own.value - other.value)  # type: ignore[operator]
    rows = result.details["by_row"]
    kinds = [
        torch.tensor([rows[kind][name] for name in ("sparsity", "active")]) for kind in ("latents", "random_directions")
    ]

    def difference(take: Tensor) -> float:
        (a, b), (c, d) = (kind[:, take].double().sum(dim=1).tolist() for kind in kinds)
        return float(a / b - c / d)

    count = kinds[0].shape[1]
    left_out = torch.tensor([difference(torch.arange(count) != row) for row in range(count)])
    jackknife = float(((count - 1) / count * (left_out - left_out.mean()).square().sum()).sqrt())
    assert excess.standard_error == pytest.approx(jackknife, rel=0.3)  # the linearised error, with few rows


def test_few_latents_of_each_token_estimate_the_mean_over_all_active_ones(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    """Tokens differ in how many latents are active, so that an unweighted mean would be another number."""
    sae = make_sae(activation=ReLU())
    every = run(sae, tiny_model, tiny_corpus, tokens=12)
    counts = every.details["by_token"]["ablations"]
    assert min(counts) < max(counts) and every.metrics["sparsity"].n == sum(counts)
    exhaustive = {name: every.metrics[name].value for name in ("sparsity", "sparsity_by_token")}
    assert abs(exhaustive["sparsity"] - exhaustive["sparsity_by_token"]) > 0  # type: ignore[operator]
    rows = every.details["by_row"]["latents"]
    assert sum(rows["active"]) == sum(rows["tried"]) == sum(counts)
    # The sampled latents of a token are a simple random sample: on average over seeds of the sampling alone, with the
    # same tokens, the weighted sums are those over all active latents.
    cut = tiny_model.cut(HOOK)
    numerator = denominator = 0.0
    chosen = sample_tokens(tiny_corpus, 12, 2, 5, 0)
    for number, positions in chosen.items():
        row = SplicedRow.make(sae, cut, tiny_corpus.tokens[number], tiny_corpus.excluded[number])
        interventions = Interventions(cut, 5, 48)
        start = interventions.start(row.outputs, row.prefix)
        for position in positions:
            _, without = row.without_each(sae, position, 10**6, torch.Generator().manual_seed(0))
            found = interventions.effects(start, position, without).sparsity
            active = row.active_at(position)
            assert found.numel() == active
            draws = [found[torch.randperm(active, generator=torch.Generator().manual_seed(s))[:2]] for s in range(400)]
            numerator += float(torch.stack([active / draw.numel() * draw.sum() for draw in draws]).mean())
            denominator += active
    assert numerator / denominator == pytest.approx(exhaustive["sparsity"], rel=0.01)
    few = run(sae, tiny_model, tiny_corpus, tokens=12, latents_per_token=2)
    sums = few.details["by_row"]["latents"]
    assert sum(sums["active"]) == sum(counts) and sum(sums["tried"]) == 24 == few.metrics["sparsity"].n
    assert few.metrics["sparsity"].value == pytest.approx(sum(sums["sparsity"]) / sum(counts))


def test_numbers_depend_on_the_seed_and_not_on_the_batch(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    sae = make_sae(activation=ReLU())
    first, small = (run(sae, tiny_model, tiny_corpus, batch=size, latents_per_token=5) for size in (48, 2))
    other = run(sae, tiny_model, tiny_corpus, seed=1, latents_per_token=5)
    for name, found in first.metrics.items():
        assert small.metrics[name].value == pytest.approx(found.value, rel=1e-4)
    assert first.metrics["sparsity"].n == 30
    assert first.details["by_latent"]["latent"] == small.details["by_latent"]["latent"]
    assert other.details["by_token"] != first.details["by_token"]


def test_other_hooks_and_objects_can_be_evaluated(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    for hook in (HOOK, "blocks.1.hook_mlp_out", "blocks.3.hook_resid_post"):
        native = run(make_sae(), tiny_model, tiny_corpus, hook)
        foreign = run(PlainSae(make_sae()), tiny_model, tiny_corpus, hook)
        for name, found in native.metrics.items():
            assert foreign.metrics[name].value == pytest.approx(found.value, rel=1e-3, abs=1e-5)
            least = -1 if name == "sparsity_excess" else 0
            assert found.value is not None and least < found.value <= 1
            if found.interval is not None:
                assert found.interval[0] <= found.value <= found.interval[1]


def test_an_autoencoder_without_active_latents_is_undefined_not_an_error(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    result = run(make_sae(activation=ReLU(), b_enc=torch.full((64,), -1e6)), tiny_model, tiny_corpus)
    assert result.metrics["sparsity"].value is None
    assert result.metrics["sparsity"].reason == "no latent was active at the sampled tokens, or none had an effect"
    assert result.metrics["channel_sparsity"].value is not None


def test_sampled_tokens_count_and_have_room(tiny_corpus: TokenCorpus) -> None:
    found = sample_tokens(tiny_corpus, 30, 3, 6, seed=3)
    assert sum(len(positions) for positions in found.values()) == 30
    for row, positions in found.items():
        assert len(set(positions)) == len(positions) <= 3
        assert all(not tiny_corpus.excluded[row, position] and position + 6 <= 16 for position in positions)
    everything = sample_tokens(tiny_corpus, 10_000, 100, 16 - 7, seed=3)
    assert 7 not in everything[5] and sum(map(len, everything.values())) == 24 * 7 - 1


def test_what_cannot_be_measured_is_an_error_before_any_work(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    with pytest.raises(SaebenchError, match="has no option 'token'; did you mean 'tokens'"):
        run(make_sae(), tiny_model, tiny_corpus, token=3)
    with pytest.raises(SaebenchError, match="it must be 1 or more"):
        run(make_sae(), tiny_model, tiny_corpus, tokens=0)
    with pytest.raises(SaebenchError, match="use a longer --context"):
        run(make_sae(), tiny_model, tiny_corpus, horizon=16)
    cut = SimpleNamespace(model=SimpleNamespace(dtype=torch.bfloat16))
    setup = Setup(make_sae(activation=TopK(2)), cut, tiny_corpus, make_shared(tiny_corpus, 200))  # type: ignore[arg-type]
    with pytest.raises(SaebenchError, match="--dtype float32"):
        Ablation.check(setup)
    assert replace(setup, cut=tiny_model.cut(HOOK)).sae.n_latents == 64
