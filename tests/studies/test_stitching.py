"""Stitching: an autoencoder with itself, planted new directions, ends that are the two autoencoders, slow versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.api import evaluate
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.sae import InputScaling, JumpReLU, SparseAutoencoder, TopK
from saebench.studies.stitching.figures import stitching_figures
from saebench.studies.stitching.mixtures import Pair, Stitched
from saebench.studies.stitching.plan import INSERT, REMOVE, SWAP, make_plan
from saebench.studies.stitching.report import stitching_result
from saebench.studies.stitching.run import Stitching, stitch
from saebench.studies.stitching.similarity import compare_directions, connected_groups
from saebench.studies.study import render_study, write_study
from saebench.text.corpus import TokenCorpus

MakeSae = Callable[..., SparseAutoencoder]


def run(
    small: SparseAutoencoder, large: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus, **more: object
) -> Stitching:
    return stitch(small, large, model=model, corpus=corpus, **more)  # type: ignore[arg-type]


def unlike(make_sae: MakeSae) -> tuple[SparseAutoencoder, SparseAutoencoder]:
    """Two autoencoders that differ in everything: size, activation, biases, scaling; the second half like the first."""
    generator = torch.Generator().manual_seed(7)
    small = make_sae(
        n=48, activation=TopK(6), b_dec=torch.randn(32, generator=generator), scaling=InputScaling("layer_norm")
    )
    mixed = torch.cat(
        [small.W_dec[:30] + 0.1 * torch.randn(30, 32, generator=generator), torch.randn(66, 32, generator=generator)]
    )
    directions = F.normalize(mixed, dim=1)
    large = make_sae(
        n=96, activation=JumpReLU(torch.full((96,), 0.4)), seed=3, W_enc=directions.T.clone(), W_dec=1.3 * directions,
        b_dec=torch.randn(32, generator=generator), b_pre=torch.randn(32, generator=generator),
        scaling=InputScaling("dataset", 0.5, 0.5),
    )  # fmt: skip
    return small, large


def test_an_autoencoder_stitched_with_itself_has_nothing_new(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    sae = make_sae()
    study = run(sae, sae, tiny_model, tiny_corpus)
    assert not study.plan.novel.any() and not study.plan.orphaned.any()
    assert study.plan.steps == sae.n_latents and bool((study.plan.kind == SWAP).all())
    result = stitching_result(study)
    assert result.metrics["novel_latents"].value == 0
    errors = result.details["path"]["normalised_mse"]
    assert errors == pytest.approx([errors[0]] * len(errors), rel=1e-5)  # each swap puts in what it takes out
    assert result.details["path"]["l0"] == pytest.approx([8.0] * len(errors), abs=1e-3)


def test_planted_directions_are_the_novel_ones(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    """Forty directions and twelve more: exactly those twelve are novel, wherever they stand."""
    orthogonal = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2))).Q
    old, new = orthogonal[:20], orthogonal[20:]
    order = torch.randperm(32, generator=torch.Generator().manual_seed(3))
    directions = torch.cat([old, new])[order].contiguous()
    relu = JumpReLU(torch.zeros(20))
    small = make_sae(n=20, activation=relu, W_enc=old.T.clone(), W_dec=old.contiguous())
    large = make_sae(n=32, activation=JumpReLU(torch.zeros(32)), W_enc=directions.T.clone(), W_dec=directions)
    study = run(small, large, tiny_model, tiny_corpus)
    assert torch.equal(study.plan.novel, order >= 20)
    assert study.plan.phase_ends() == [12, 32, 32]
    latents = study.latents()
    assert bool((latents.effect[latents.novel] < 0).all()), "a new orthogonal direction can only lower the error"
    path = stitching_result(study).details["path"]
    assert all(
        after < before for before, after in zip(path["normalised_mse"][:12], path["normalised_mse"][1:13], strict=True)
    )
    assert path["normalised_mse"][12] == pytest.approx(
        path["normalised_mse"][-1], rel=1e-4
    )  # the rest is swapped one for one


def test_ends_are_the_two_autoencoders(make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    """Differing biases, scaling and activation functions notwithstanding."""
    small, large = unlike(make_sae)
    study = run(small, large, tiny_model, tiny_corpus)
    assert set(study.plan.kind.tolist()) == {INSERT, SWAP, REMOVE}
    result = stitching_result(study)
    cards = evaluate([small, large], model=tiny_model, corpus=tiny_corpus, progress=False)
    for place, card, where in ((0, cards[0], "small"), (-1, cards[1], "large")):
        for name in ("normalised_mse", "normalised_mse_unit_norm"):
            own = card.result.metric(f"reconstruction.{name}")
            assert result.details["path"][name][place] == pytest.approx(own.value, rel=1e-4)
            assert result.metrics[f"{name}_{where}"].standard_error == pytest.approx(own.standard_error, rel=1e-3)
        assert result.details["path"]["l0"][place] == pytest.approx(card.result.metric("reconstruction.l0").value)
        for name in ("ce_difference", "kl_divergence"):
            assert result.metrics[f"{name}_{where}"].value == pytest.approx(
                card.result.metric(f"downstream.{name}").value, rel=1e-4
            )
    assert (result.metrics["end_point_difference"].value or 0) < 1e-5


def activations(model: LanguageModel, corpus: TokenCorpus) -> Tensor:
    return model.cut("blocks.1.hook_resid_post").prefix(corpus.tokens).inputs[~corpus.excluded].float()


def test_every_point_equals_the_mixture_decoded_by_itself(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    small, large = unlike(make_sae)
    study = run(small, large, tiny_model, tiny_corpus, points=9)
    x = activations(tiny_model, tiny_corpus)
    pair = Pair(small, large)
    for place, step in enumerate(study.path.points.tolist()):
        mixture = Stitched(pair, study.plan, step)
        code = mixture.encode(x)
        error = (x - mixture.decode(code, x)).double().square().sum()
        assert study.path.sums.total(f"raw.{place}") == pytest.approx(float(error), rel=1e-4)
        assert study.path.sums.total(f"l0.{place}") == pytest.approx(float(mixture.in_place(code).sum()))


def test_effects_equal_a_slow_version(make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    small, large = unlike(make_sae)
    study = run(small, large, tiny_model, tiny_corpus)
    x = activations(tiny_model, tiny_corpus).double()
    pair = Pair(small, large)
    dense = pair.encode(x.float()).to_dense().double()
    table = torch.cat([small.W_dec, large.W_dec]).double()
    before = x - small.decode(small.encode(x.float()), x.float()).double()
    inserted = [(before - dense[:, 48 + j, None] * table[48 + j]).square().sum() - before.square().sum() for j in range(96)]
    assert study.path.inserted.total[0].tolist() == pytest.approx([float(each) for each in inserted], rel=1e-4, abs=1e-3)
    assert study.path.inserted.tokens.tolist() == (dense[:, 48:] != 0).sum(0).tolist()
    sign = torch.cat([torch.ones(48), -torch.ones(96)]).double()
    for step in range(1, study.plan.steps + 1, 7):
        change = (dense * sign * (study.plan.step == step)) @ table
        expected = (before + change).square().sum() - before.square().sum()
        assert float(study.path.stepped.total[0, step - 1]) == pytest.approx(float(expected), rel=1e-4, abs=1e-3)


def test_the_batch_size_does_not_matter(make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    small, large = unlike(make_sae)
    one, other = (run(small, large, tiny_model, tiny_corpus, batch=rows) for rows in (3, 24))
    assert torch.allclose(one.path.sums.groups(), other.path.sums.groups(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(one.path.inserted.standard_errors(), other.path.inserted.standard_errors(), rtol=1e-3, atol=1e-5)


def test_groups_hang_together_and_phases_follow_each_other() -> None:
    """Small 0 and 1 are joined by large 0; small 2 is alone; large 1 is alone."""
    root = 0.5**0.5
    small = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    large = torch.tensor([[root, root, 0, 0], [0, 0, 0, 1.0]])
    similarity = compare_directions(small, large, 0.7)
    assert similarity.pairs.tolist() == [[0, 1], [0, 0]]
    plan = make_plan(similarity)
    assert plan.kind.tolist() == [INSERT, SWAP, REMOVE]
    assert plan.step.tolist() == [2, 2, 3, 2, 1]
    assert plan.share.tolist() == pytest.approx([0, 0.2, 0.8, 1.0])
    labels = connected_groups(3, 2, similarity.pairs)
    assert labels[0] == labels[1] == labels[3] and len(set(labels.tolist())) == 3


def test_comparing_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = torch.randn(20, 8, generator=generator), torch.randn(50, 8, generator=generator)
    whole = compare_directions(small, large, 0.3)
    monkeypatch.setattr("saebench.studies.stitching.similarity.CHUNK_ELEMENTS", 60)
    parts = compare_directions(small, large, 0.3)
    assert {tuple(pair) for pair in whole.pairs.T.tolist()} == {tuple(pair) for pair in parts.pairs.T.tolist()}
    for one, other in zip(whole[:3], parts[:3], strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_wrong_pairs_are_refused_in_one_sentence(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    small, large = make_sae(n=32), make_sae(n=64)
    with pytest.raises(SaebenchError, match="smaller one first"):
        run(large, small, tiny_model, tiny_corpus)
    with pytest.raises(SaebenchError, match="threshold"):
        run(small, large, tiny_model, tiny_corpus, threshold=1.5)
    elsewhere = replace(large, info=replace(large.info, hook_in="blocks.2.hook_resid_post"))
    with pytest.raises(SaebenchError, match="different hooks"):
        run(small, elsewhere, tiny_model, tiny_corpus)


def test_the_page_holds_every_figure_and_escapes_names(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    small = make_sae(n=32)
    named = replace(small, info=replace(small.info, origin="<script>alert(1)</script>"))
    study = run(named, make_sae(n=64, seed=1), tiny_model, tiny_corpus)
    result = stitching_result(study)
    figures = stitching_figures(study, result)
    page = render_study(result, figures)
    assert [f'id="plot-{each.key}"' in page for each in figures] == [True] * 6
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    numbers, html = write_study(result, figures, tmp_path)
    assert numbers.name == "stitching.json" and html.stat().st_size > 1_000_000
