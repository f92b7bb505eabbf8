"""Values of latents in chunks against dense ones, and scores against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from saebench.probing import values
from saebench.probing.scores import area_under_curve, bootstrap_interval, clipped_losses, held_out
from saebench.probing.values import Activations, PreActivations, RandomDirections
from saebench.sae import SparseAutoencoder
from saebench.sae.activations import ReLU

Make = Callable[..., SparseAutoencoder]
OWNER = torch.tensor([0, 0, 1, 2, 2, 2])


def dense_pool(dense: torch.Tensor, pooling: str) -> torch.Tensor:
    parts = [dense[text == OWNER] for text in range(3)]
    return torch.stack([part.mean(0) if pooling == "mean" else part.amax(0) for part in parts]).T


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("source", [PreActivations, Activations])
def test_chunks_and_chosen_equal_dense_values(
    source: type, pooling: str, make_sae: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "CHUNK_ELEMENTS", 6 * 64)
    sae = make_sae(n=200, activation=ReLU() if source is Activations else None)
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    dense = sae.encode(rows).to_dense() if source is Activations else sae.pre_activations(rows, 0, 200)
    expected = dense_pool(dense, pooling)
    got = source(sae, pooling)
    parts = list(got.chunks(rows, OWNER, 3))
    assert len(parts) == 4
    torch.testing.assert_close(torch.cat(parts), expected)
    chosen = torch.tensor([150, 3, 77])
    torch.testing.assert_close(got.chosen(chosen, rows, OWNER, 3), expected[chosen])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_class_means_equal_those_of_dense_values(pooling: str, make_sae: Make) -> None:
    sae = make_sae(n=100)
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1])
    expected = dense_pool(sae.encode(rows).to_dense(), pooling).double()
    found = Activations(sae, pooling).class_means(rows, OWNER, labels)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.stack([expected[:, 0], expected[:, 1:].mean(1)]))


def test_random_directions_are_the_same_in_chunks_and_alone() -> None:
    directions = RandomDirections(32, 10_000, 5, "last")
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    owner = torch.arange(7)
    whole = torch.cat(list(directions.chunks(rows, owner, 7)))
    chosen = torch.tensor([9_999, 0, 4_096])
    torch.testing.assert_close(directions.chosen(chosen, rows, owner, 7), whole[chosen])
    assert whole.shape == (10_000, 7)


def test_area_under_curve_equals_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = rng.integers(0, 8, 200) + labels
    assert area_under_curve(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(roc_auc_score(labels, scores))


def test_no_wrong_example_costs_more_than_the_rule_of_succession_allows() -> None:
    losses = clipped_losses(torch.tensor([1e6, -1e6, 0.0]), torch.tensor([0, 0, 1]), 98)
    expected = torch.tensor([np.log(100), np.log(100 / 99), np.log(2)], dtype=torch.float64)
    torch.testing.assert_close(losses, expected)


def test_examples_of_one_group_are_resampled_together() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, generator=generator, dtype=torch.float64)
    labels = torch.arange(200) % 2
    alone = held_out(logits, labels, torch.arange(200), 240, 1000, 0)
    doubled = held_out(logits.repeat(2), labels.repeat(2), torch.arange(200).repeat(2), 240, 1000, 0)
    assert doubled["loss"] == pytest.approx(alone["loss"])
    assert doubled["standard_error"] == pytest.approx(alone["standard_error"])
    assert doubled["interval"] == pytest.approx(alone["interval"])
    assert alone["accuracy"] == pytest.approx(float(((logits > 0) == (labels == 1)).double().mean()))


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    sums = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(sums, torch.ones_like(sums), 4000, 0)
    half = 1.96 * float(sums.std()) / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert (high + low) / 2 == pytest.approx(float(sums.mean()), abs=0.01)
