"""Scores and their summary over latents: known answers, agreement with scikit-learn, undefined quantities."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from saebench.explaining.n2g.scoring import area_under_curve, score_latent, share_interval
from saebench.explaining.n2g.summary import summarise
from saebench.results.statistics import Estimate

EVERYWHERE = torch.ones(2, 4, dtype=torch.bool)


def test_precision_recall_and_f1_by_hand() -> None:
    active = torch.tensor([[1.0, 0, 0, 0], [0, 2, 2, 0]])
    simulated = torch.tensor([[3.0, 3, 0, 0], [0, 3, 0, 0]])
    score = score_latent(active, simulated, EVERYWHERE, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert (score.predicted, score.positives, score.both) == (3, 3, 2)
    assert score.precision.value == pytest.approx(2 / 3)
    assert score.recall_unseen == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(2 / 3)
    assert score.recall.value == 0.75
    assert score.auc == pytest.approx(roc_auc_score((active > 0).flatten(), simulated.flatten()))


def test_positions_that_do_not_count_do_not_count() -> None:
    counted = EVERYWHERE.clone()
    counted[0, 1] = False
    simulated = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    score = score_latent(simulated * torch.tensor([1.0, 0, 0, 0]), simulated, counted, torch.ones(1))
    assert score.precision.value == 1 and score.f1 == 1 and score.auc == 1


def test_a_level_decides_what_counts_as_firing() -> None:
    active, simulated = torch.tensor([[0.4, 0.6]]), torch.tensor([[0.6, 0.6]])
    score = score_latent(active, simulated, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.4, 0.6]), level=0.5)
    assert score.precision.value == 0.5 and score.recall.value == 0.5


def test_what_is_not_defined_is_none() -> None:
    nothing = torch.zeros(2, 4)
    score = score_latent(nothing, nothing, EVERYWHERE, torch.zeros(0))
    assert score.precision.value is None and score.precision_interval is None
    assert score.recall.value is None
    assert score.recall_unseen is None and score.f1 is None and score.auc is None
    silent = score_latent(torch.ones(2, 4), nothing, EVERYWHERE, torch.zeros(3))
    assert silent.precision.value is None and silent.recall.value == 0 and silent.f1 == 0 and silent.auc is None


def test_auc_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(300, generator=generator) < 0.1
    scores = (torch.rand(300, generator=generator) + truth).mul(4).floor()
    assert area_under_curve(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_wilsons_interval() -> None:
    low, high = share_interval(Estimate(0.5, (0.25 / 100) ** 0.5), 100, 50) or (0, 0)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # the textbook's for 50 of 100
    assert share_interval(Estimate(1.0, 0.0), 100, 16) == pytest.approx((0.8064, 1.0), abs=1e-4)  # 16 of 16


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        values = torch.randn(40, generator=generator).tolist()
        interval = summarise(values, [index % 4 for index in range(40)], [1.0] * 40, 300, seed).interval
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert 175 <= covered <= 199


def test_the_standard_error_is_right_for_two_latents_in_each_stratum() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 8, generator=generator)
    strata = [0, 0, 1, 1, 2, 2, 3, 3]
    stated = [summarise(row, strata, [1.0] * 8, 200, seed).standard_error for seed, row in enumerate(values.tolist())]
    mean_square = sum((each or 0.0) ** 2 for each in stated) / len(stated)
    assert mean_square == pytest.approx(1 / 8, rel=0.1)  # resampling two of two would give half of it


def test_balanced_f1_is_f1_where_half_of_the_positions_are_active() -> None:
    active = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]])
    simulated = torch.tensor([[1.0, 1, 1, 0, 1, 0, 0, 0]])
    counted = torch.ones(1, 8, dtype=torch.bool)
    score = score_latent(active, simulated, counted, torch.ones(1))
    assert score.f1_balanced == pytest.approx(score.f1)
    rare = score_latent(*(torch.cat([each, each[:, 4:].repeat(1, 50)], dim=1) for each in (active, simulated)),
                        torch.ones(1, 208, dtype=torch.bool), torch.ones(1))  # fmt: skip
    assert rare.f1_balanced == pytest.approx(score.f1_balanced)
    assert rare.f1 is not None and rare.f1 < 0.2


def test_weights_and_undefined_values() -> None:
    summary = summarise([1.0, None, 0.0], [0, 0, 0], [3.0, 100.0, 1.0], 100, 0)
    assert summary.value == 0.75 and summary.n == 2
    assert summarise([None], [0], [1.0], 100, 0).value is None
    assert summarise([0.5], [0], [1.0], 100, 0) == (0.5, None, None, 1)
