"""Meta-autoencoders: a planted basis is recovered, random directions have none, and the decomposition says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae import SparseAutoencoder
from saebench.studies.meta.report import meta_figures, meta_result
from saebench.studies.meta.run import (
    MetaSettings,
    MetaStudy,
    explain,
    mean_largest_cosine,
    meta_study,
    part_shares,
    shuffle_coordinates,
)
from saebench.studies.study import write_study

MakeSae = Callable[..., SparseAutoencoder]
BASIS, PARTS, LATENTS, D = 40, 3, 1000, 48


def planted() -> tuple[Tensor, Tensor]:
    """``(directions [latents, d], basis)``: each direction is a sum of one to five of forty unit vectors.

    Their number varies: were it the same, a shift of all unit vectors could hide in the bias.
    """
    generator = torch.Generator().manual_seed(1234)  # not the training's, whose initial decoder would be the basis
    basis = F.normalize(torch.randn(BASIS, D, generator=generator), dim=1)
    chosen = torch.rand(LATENTS, BASIS, generator=generator).topk(5).indices
    there = torch.arange(5) < torch.randint(1, 6, (LATENTS, 1), generator=generator)
    weights = (0.5 + torch.rand(LATENTS, 5, generator=generator)) * there
    return F.normalize((weights.unsqueeze(2) * basis[chosen]).sum(1), dim=1), basis


@pytest.fixture(scope="module")
def study() -> MetaStudy:
    from saebench.sae import CheckpointInfo, TopK

    directions, _ = planted()
    info = CheckpointInfo("planted", "saebench", "topk", D, D, LATENTS, {"name": "topk", "k": 8})
    sae = SparseAutoencoder(directions.T.clone(), 2 * directions, torch.zeros(LATENTS), torch.zeros(D), TopK(8), info)
    return meta_study(sae, MetaSettings(n=BASIS, active=PARTS, steps=600, lr=5e-3))


def test_a_planted_basis_is_recovered_and_random_directions_have_none(study: MetaStudy) -> None:
    _, basis = planted()
    recovered = (F.normalize(study.real.sae.W_dec, dim=1) @ basis.T).amax(dim=0)
    assert float(recovered.mean()) > 0.9
    for name, control in study.controls.items():
        of_control = (F.normalize(control.sae.W_dec, dim=1) @ basis.T).amax(dim=0)
        assert float(of_control.mean()) < 0.6, name
        assert (study.real.variance.value or 0) > (control.variance.value or 0) + 0.3
    assert (study.real.variance.value or 0) > 0.85


def test_as_many_are_active_as_requested(study: MetaStudy) -> None:
    for each in (study.real, *study.controls.values()):
        assert each.l0 == pytest.approx(PARTS, rel=1e-3)


def test_the_decomposition_sums_to_the_reconstruction(study: MetaStudy) -> None:
    table = study.decomposition()
    meta = study.real.sae
    for latent in (0, 17, 999):
        parts = table[table.latent == latent]
        assert parts.value.is_monotonic_decreasing
        total = meta.b_dec + sum(meta.W_dec[row.meta_latent] * row.value for row in parts.itertuples())
        decoded = meta.decode(study.real.code, study.directions)[latent]
        assert torch.allclose(total, decoded, atol=1e-5)
        share = (
            1 - (study.directions[latent] - total).square().sum() / (study.directions[latent] - meta.b_dec).square().sum()
        )
        assert float(part_shares(study.real, study.directions)[latent]) == pytest.approx(float(share), abs=1e-5)


def test_the_variance_explained_is_the_plain_one(study: MetaStudy) -> None:
    x = study.directions.double()
    error = (x - study.real.sae.decode(study.real.code, study.directions).double()).square().sum()
    assert study.real.variance.value == pytest.approx(float(1 - error / (x - x.mean(0)).square().sum()))


def test_shuffling_keeps_each_coordinate_and_breaks_the_rest() -> None:
    directions = planted()[0]
    shuffled = shuffle_coordinates(directions, 0)
    assert torch.allclose(shuffled.norm(dim=1), torch.ones(LATENTS), atol=1e-5)
    assert torch.allclose(shuffled.mean(0), directions.mean(0), atol=0.02)
    off = torch.corrcoef(shuffled.T) - torch.eye(D)
    assert float(off.abs().max()) < 0.15 < float((torch.corrcoef(directions.T) - torch.eye(D)).abs().max())


def test_the_same_seed_gives_the_same_number(study: MetaStudy) -> None:
    again = meta_study(study.sae, MetaSettings(n=BASIS, active=PARTS, steps=20))
    once_more = meta_study(study.sae, MetaSettings(n=BASIS, active=PARTS, steps=20))
    assert again.real.variance == once_more.real.variance


def test_the_result_names_who_shares_what(study: MetaStudy, tmp_path: Path) -> None:
    result = meta_result(study)
    table = study.decomposition()
    first = result.details["meta_latents"][0]
    mine = table[table.meta_latent == first["meta_latent"]].sort_values(["value", "latent"], ascending=[False, True])
    assert first["latents"] == len(mine)
    assert [latent for latent, _ in first["most"]] == mine.latent.tolist()[:20]
    assert sum(result.details["latents_per_meta_latent"]) == len(table)
    numbers, _ = write_study(result, meta_figures(study, result), tmp_path)
    assert numbers.is_file()


def test_meta_latents_are_compared_with_a_smaller_autoencoder(study: MetaStudy, make_sae: MakeSae) -> None:
    _, basis = planted()
    other = make_sae(d=D, n=BASIS, W_enc=basis.T.clone(), W_dec=basis)
    origin, of_meta, of_random = mean_largest_cosine(study.real.sae, other, 0)
    assert origin == "made in a test"
    assert (of_meta.value or 0) > 0.85 > 0.6 > (of_random.value or 0)


def test_the_papers_proportion_is_the_default_and_too_many_are_refused(make_sae: MakeSae) -> None:
    assert MetaSettings().resolved(49_152).n == 2304
    assert MetaSettings().resolved(49_152).active == 4
    with pytest.raises(SaebenchError, match="use fewer"):
        meta_study(make_sae(n=64), MetaSettings(n=64))
    with pytest.raises(SaebenchError, match="writes"):
        meta_study(make_sae(n=64), MetaSettings(n=10), against=make_sae(d=16))


def test_a_threshold_keeps_exactly_the_largest(make_sae: MakeSae) -> None:
    sae = make_sae(n=64)
    directions = F.normalize(torch.randn(200, 32, generator=torch.Generator().manual_seed(4)), dim=1)
    explained = explain(sae, directions, 5)
    assert int(explained.code.active.sum()) == 1000
    pre = (directions @ sae.W_enc).flatten()
    assert torch.equal(explained.code.values[explained.code.active].sort().values, pre.sort().values[-1000:])
