"""The sample of activations and of latents: seeded, uniform, and independent of batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saebench.explaining.examples import sampling
from saebench.explaining.examples.sampling import (
    ActivationSampler,
    EncodedRows,
    SampledActivations,
    choose_latents,
    split_rows,
)
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder, SparseLatents
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK


def sample(sae: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus, seed: int = 0) -> SampledActivations:
    sampler = ActivationSampler(sae.n_latents, 4, seed)
    source = sampling.HookInputs(model.cut(HOOK), corpus)
    for batch in sampling.encode_rows(source, sae, torch.arange(corpus.tokens.shape[0])):
        sampler.update(batch)
    return sampler.result()


@pytest.mark.parametrize("rows_kept", [0, 3, 1000])
def test_each_row_runs_once_while_its_activations_are_kept(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch, rows_kept: int
) -> None:
    cut, rows = tiny_model.cut(HOOK), tiny_corpus.tokens.shape[0]
    plain = cut.prefix(tiny_corpus.tokens).inputs
    monkeypatch.setattr(sampling, "MOST_KEPT", rows_kept * plain[0].numel() * plain.element_size())
    ran: list[int] = []
    run = cut.prefix
    monkeypatch.setattr(cut, "prefix", lambda tokens: ran.append(tokens.shape[0]) or run(tokens))
    source = sampling.HookInputs(cut, tiny_corpus)
    for some in (torch.tensor([1, 0, 5]), torch.arange(rows), torch.tensor([5, 2])):
        assert torch.allclose(source.of(some), plain[some], atol=1e-5)
    kept = min(rows_kept, 3)
    assert ran == ([3, rows - 3] if rows_kept >= rows else [3, rows - kept, 2 if kept == 0 else 1])


@pytest.mark.parametrize(("tokens", "buffer"), [(16, 1), (48, 100), (10_000, 10)])
def test_batches_do_not_matter(
    make_sae: Callable[..., SparseAutoencoder],
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    buffer: int,
) -> None:
    sae = make_sae()
    expected = sample(sae, tiny_model, tiny_corpus)
    monkeypatch.setattr(sampling, "TOKENS_PER_BATCH", tokens)
    monkeypatch.setattr(sampling, "BUFFER", buffer)
    found = sample(sae, tiny_model, tiny_corpus)
    for name in ("rows", "positions", "offsets", "counts"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.allclose(found.values, expected.values, atol=1e-5)


def test_the_sample_holds_true_activations_and_all_counts(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    sae = make_sae()
    found = sample(sae, tiny_model, tiny_corpus)
    x = tiny_model.cut(HOOK).prefix(tiny_corpus.tokens).inputs
    dense = sae.encode(x.flatten(0, 1)).to_dense().unflatten(0, tiny_corpus.tokens.shape)
    counted = dense * ~tiny_corpus.excluded.unsqueeze(-1)
    assert torch.equal(found.counts, (counted > 0).sum(dim=(0, 1)))
    assert torch.allclose(found.mass, counted.double().sum(dim=(0, 1)), rtol=1e-5)
    assert torch.allclose(found.largest, counted.amax(dim=(0, 1)))
    for latent in range(sae.n_latents):
        part = found.of(latent)
        assert part.stop - part.start == min(4, int(found.counts[latent]))
        assert torch.allclose(found.values[part], counted[found.rows[part], found.positions[part], latent], atol=1e-5)


def test_another_seed_draws_others(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    one, other = (sample(make_sae(), tiny_model, tiny_corpus, seed) for seed in (0, 1))
    assert not torch.equal(one.rows, other.rows)


def test_every_activation_is_sampled_equally_often() -> None:
    places = torch.arange(8)
    drawn = torch.zeros(8)
    for seed in range(400):
        sampler = ActivationSampler(1, 2, seed)
        code = SparseLatents(torch.zeros(8, 1, dtype=torch.int64), torch.ones(8, 1), 1)
        sampler.update(EncodedRows(torch.zeros(8, dtype=torch.int64), places, torch.zeros(8, 1), code))
        drawn[sampler.result().positions] += 1
    assert drawn.sum() == 800
    assert (drawn - 100).abs().max() < 4 * (400 * 0.25 * 0.75) ** 0.5


def test_latents_are_sampled_from_every_stratum_of_those_that_fired_enough() -> None:
    counts = torch.tensor([0, 1, 2, *range(10, 50)])
    chosen = choose_latents(counts, least=8, wanted=8, strata=4, seed=3)
    assert chosen.strata == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(10 <= int(counts[latent]) < 50 for latent in chosen.latents)
    assert [(int(counts[latent]) - 10) // 10 for latent in chosen.latents] == chosen.strata
    assert sum(chosen.weights) == 40
    assert chosen == choose_latents(counts, least=8, wanted=8, strata=4, seed=3)


def test_few_latents_are_all_taken_and_none_is_no_error() -> None:
    assert sorted(choose_latents(torch.tensor([9, 0, 9]), 8, 64, 4, 0).latents) == [0, 2]
    assert choose_latents(torch.tensor([1, 2]), 8, 64, 4, 0).latents == []


def test_rows_are_split_without_overlap() -> None:
    examples, unseen = split_rows(11, 0.5, 0)
    assert sorted([*examples.tolist(), *unseen.tolist()]) == list(range(11))
    assert unseen.numel() == 6 and torch.equal(unseen, unseen.sort().values)
