"""The planted world: patterns by hand, its language model, the oracle, and damages with their true effects."""

from __future__ import annotations

import pytest
import torch

import saebench
from saebench.errors import SaebenchError
from saebench.evaluation.controls import reinitialised
from saebench.lm import Cut
from saebench.planted import DAMAGES, PlantedConfig, PlantedFeatures, PlantedWorld, plant
from saebench.planted.features import BOS, COMPANION_SHARE, FIRST_WORD, Contexts, word_frequencies
from saebench.planted.world import sample_rows


def active_by_hand(features: PlantedFeatures, row: list[int], place: int) -> set[int]:
    """The definition of each kind, for one position."""
    found, own = set(), row[place]
    for number, (kind, pattern) in enumerate(zip(features.kinds, features.patterns, strict=True)):
        before = row[place - 1] if place else -1
        chance = float(features._chance[before + 1, own])
        hit = {
            "token": own == pattern[-1],
            "parent": own in pattern,
            "bigram": own == pattern[-1] and before == pattern[0],
            "skip": own == pattern[-1] and pattern[0] in row[max(0, place - 4) : max(0, place - 1)],
            "topic": place >= 1 and row[1] == pattern[0],
            "companion": own == pattern[-1] and chance < COMPANION_SHARE,
        }[kind]
        if hit and own >= FIRST_WORD:
            found.add(number)
    return found


def test_features_are_active_where_their_patterns_are(world: PlantedWorld) -> None:
    rows = sample_rows(world.features, 40, seed=3)
    active = world.features.active(Contexts.of(rows))
    seen = set()
    for row, places in zip(rows.tolist(), active, strict=True):
        for place in range(len(row)):
            expected = active_by_hand(world.features, row, place)
            assert set(places[place].nonzero().flatten().tolist()) == expected
            seen |= {world.features.kinds[number] for number in expected}
    assert seen == {"token", "parent", "bigram", "skip", "topic", "companion"}
    assert not active[:, 0].any()  # nothing is active on BOS
    assert world.features.count > world.config.d


def test_the_last_position_alone_is_that_of_the_whole_row(world: PlantedWorld) -> None:
    rows = sample_rows(world.features, 20, seed=4)
    for length in (2, 3, 5, 20):
        whole = world.features.activations(Contexts.of(rows[:, :length]))[:, -1:]
        ends = Contexts.ends(rows, torch.full((rows.shape[0],), length))
        torch.testing.assert_close(world.features.activations(ends), whole)


def test_a_position_sees_what_is_visible(world: PlantedWorld) -> None:
    """Two texts with a common beginning in one row, as packed tries are run."""
    first, second = sample_rows(world.features, 2, seed=5)[:, :6]
    packed = torch.cat([first[:4], first[4:], second[4:]]).unsqueeze(0)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]])
    visible = torch.zeros(1, 8, 8, dtype=torch.bool)
    for at, seen in enumerate([[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6],
                               [0, 1, 2, 3, 6, 7]]):  # fmt: skip
        visible[0, at, seen] = True
    found = world.cut().prefix(packed, visible, positions).inputs[0]
    apart = torch.stack([first, torch.cat([first[:4], second[4:]])])
    expected = world.features.activations(Contexts.of(apart))
    torch.testing.assert_close(found[:6], expected[0])
    torch.testing.assert_close(found[6:], expected[1, 4:])


def test_the_model_above_is_a_norm_and_the_features_effects(world: PlantedWorld) -> None:
    rows = sample_rows(world.features, 5, seed=6)
    cut = world.cut()
    prefix = cut.prefix(rows)
    torch.testing.assert_close(prefix.outputs, world.features.activations(Contexts.of(rows)))
    size = prefix.outputs.square().mean(dim=-1, keepdim=True).sqrt()
    expected = prefix.outputs / size * world.features.norm_size @ world.features.unembedding.T
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(world.model.logits(rows), expected, rtol=1e-3, atol=1e-3)
    with_blocks = Cut.differentiable_suffix(cut, prefix.outputs, prefix).detach()
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), with_blocks, rtol=1e-5, atol=1e-4)
    assert float((world.features.effects != 0).float().mean()) < 0.03


def test_the_ends_of_texts_need_no_pass(world: PlantedWorld) -> None:
    rows, lengths = sample_rows(world.features, 6, seed=8), torch.tensor([1, 2, 3, 4, 9, 20])
    found = world.cut().at_ends(rows, lengths)
    for row, length, end in zip(rows, lengths.tolist(), found, strict=True):
        torch.testing.assert_close(end, world.cut().prefix(row[:length].unsqueeze(0)).inputs[0, -1])


def test_a_reinitialised_model_is_another_one(world: PlantedWorld) -> None:
    cut = world.cut()
    prefix = cut.prefix(sample_rows(world.features, 2, seed=6))
    before = cut.suffix(prefix.outputs, prefix)
    with reinitialised(world.model, seed=0):
        assert float((cut.suffix(prefix.outputs, prefix) - before).abs().max()) > 1
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), before)


def test_texts_are_drawn_from_the_models_own_predictions(world: PlantedWorld) -> None:
    """Mean log-probabilities of the text equal minus the mean entropy: no change of activations lowers the expected loss."""
    rows = sample_rows(world.features, 400, seed=7)
    logits = world.model.logits(rows)[:, 1:-1]
    words = word_frequencies(world.config) > 0
    logs = logits.masked_fill(~words, -torch.inf).log_softmax(dim=-1)
    surprise = -logs.gather(-1, rows[:, 2:].unsqueeze(-1)).squeeze(-1)
    entropy = torch.special.entr(logs.exp()).sum(dim=-1)
    difference = (surprise - entropy).mean(dim=1)
    error = float(difference.std()) / difference.numel() ** 0.5
    assert abs(float(difference.mean())) < 4 * error < 0.1
    assert rows[:, 0].eq(BOS).all()


def test_the_same_seed_is_the_same_world() -> None:
    small = PlantedConfig(d=16, words=48, singles=24, seed=3)
    first, second, other = plant(small), plant(small), plant(PlantedConfig(d=16, words=48, singles=24, seed=4))
    corpus = first.corpus(320, seed=1)
    assert torch.equal(corpus.tokens, second.corpus(320, seed=1).tokens)
    assert torch.equal(first.activations(corpus), second.activations(corpus))
    assert torch.equal(first.oracle().W_enc, second.oracle().W_enc)
    assert not torch.equal(first.features.directions, other.features.directions)
    assert corpus.tokens.shape == (10, 32)


def test_the_oracle_recovers_every_feature(world: PlantedWorld) -> None:
    corpus = world.corpus(16_384, seed=1)
    found = world.recovery(world.oracle(), corpus)
    assert found.precision == 1.0 and found.latents_cosine == pytest.approx(1.0)
    assert found.recall >= 0.98  # the encoder was fitted on another text, in which the rarest features never occur
    assert found.variance > 0.98


def test_damages_lower_true_recovery_with_their_dose(world: PlantedWorld) -> None:
    corpus = world.corpus(8192, seed=1)
    best = world.recovery(world.oracle(), corpus)
    for kind, damage in DAMAGES.items():
        doses = [world.recovery(world.damaged(kind, dose), corpus) for dose in damage.doses]
        assert doses[0] == best, kind
        f1, variance = [each.f1 for each in doses], [each.variance for each in doses]
        assert f1 == sorted(f1, reverse=True) and variance == sorted(variance, reverse=True), kind
        assert variance[-1] < variance[0] - 0.005, kind
        assert kind == "shrunk" or f1[-1] < f1[0] - 0.02, kind
    assert world.recovery(world.damaged("missing", 0.5), corpus).recall == pytest.approx(0.5, abs=0.05)
    with pytest.raises(SaebenchError, match="no damage 'bent'; there are: rotated, missing"):
        world.damaged("bent", 0.1)
    with pytest.raises(SaebenchError, match=r"The dose of dead is 2; it is from 0 to 0\.95"):
        world.damaged("dead", 2)


def test_evaluators_run_on_it_and_prefer_the_oracle(world: PlantedWorld) -> None:
    saes = [world.oracle(), world.damaged("random", 0.75)]
    cards = saebench.evaluate(
        saes, model=world.model, hook=world.hook, corpus=world.corpus(2048, seed=2), progress=False,
        evaluators=["reconstruction", "downstream", "shrinkage", "progressive", "ablation", "explainability", "dictionary"],
        options={"ablation": {"tokens": 32, "horizon": 6}, "explainability": {"latents": 6, "losses": False, "window": 8}},
    )  # fmt: skip
    assert [card.result.failures for card in cards] == [{}, {}]
    for path in ("reconstruction.normalised_mse", "downstream.kl_divergence", "ablation.sparsity", "explainability.f1"):
        good, bad = (card.result.metric(path) for card in cards)
        assert good.value is not None and bad.value is not None
        assert (good.value < bad.value) == (good.direction == "lower"), path
