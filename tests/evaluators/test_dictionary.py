from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

import saebench
import saebench.evaluators.geometry as geometry_module
from saebench.checkpoints import save_native
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.evaluators import dictionary_pair
from saebench.evaluators.dictionary import geometry
from saebench.evaluators.dictionary_pair import compare, hungarian
from saebench.evaluators.geometry import matched_random_chunks, nearest, second_moments, singular_values
from saebench.lm import LanguageModel
from saebench.results import Metric
from saebench.sae import ReLU, SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

Make = Callable[..., SparseAutoencoder]


def directions(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def named(metrics: list[Metric]) -> dict[str, Metric]:
    return {each.name: each for each in metrics}


def from_decoder(make_sae: Make, W_dec: Tensor, **changes: Any) -> SparseAutoencoder:
    n, d = W_dec.shape
    return make_sae(
        d, n, W_dec=W_dec, W_enc=W_dec.T.clone(), b_enc=torch.zeros(n), b_dec=torch.zeros(d), activation=ReLU(), **changes
    )


def test_nearest_directions_are_those_of_the_full_table() -> None:
    queries, table = directions(13, 8, 0), directions(40, 8, 1)
    cosines = F.normalize(queries, dim=1) @ F.normalize(table, dim=1).T
    for size in (40, 7, 1):
        found, number = nearest(queries, iter(table.split(size)))
        torch.testing.assert_close(found, cosines.amax(dim=1))
        assert number.tolist() == cosines.argmax(dim=1).tolist()
    own = torch.tensor([3, 20])
    others = (F.normalize(table, dim=1)[own] @ F.normalize(table, dim=1).T).scatter(1, own.unsqueeze(1), -1)
    found, number = nearest(table[own], iter(table.split(7)), own)
    torch.testing.assert_close(found, others.amax(dim=1))
    assert number.tolist() == others.argmax(dim=1).tolist()


def test_effective_rank_counts_dimensions() -> None:
    def effective_rank(W_dec: torch.Tensor) -> float | None:
        return geometry_module.effective_rank(singular_values(W_dec))

    basis = torch.linalg.qr(directions(16, 16, 0)).Q
    assert effective_rank(basis[:5]) == pytest.approx(5, rel=1e-4)
    assert effective_rank(basis.repeat(3, 1) * torch.rand(48, 1)) == pytest.approx(16, rel=1e-6)
    assert effective_rank(basis[:1].repeat(9, 1)) == pytest.approx(1, rel=1e-4)
    assert effective_rank(torch.zeros(4, 6)) is None
    singular = torch.tensor([2.0, 1.0, 1.0]).sqrt()  # two directions alike beside two others: entropy by hand
    shares = singular / singular.sum()
    expected = float(torch.exp(-(shares * shares.log()).sum()))
    assert effective_rank(basis[[0, 0, 1, 2]]) == pytest.approx(expected, rel=1e-4)


def test_a_random_dictionary_has_the_subspace_of_the_real_one() -> None:
    flat = directions(300, 12, 0) * torch.tensor([3.0] * 4 + [0.0] * 8)
    drawn = torch.cat(list(matched_random_chunks(flat, 20_000, seed=1)))
    assert drawn.shape == (20_000, 12) and float(drawn[:, 4:].abs().max()) < 1e-3
    torch.testing.assert_close((drawn.double().T @ drawn.double() / 20_000), second_moments(flat), atol=0.01, rtol=0)


def test_planted_neighbours_are_found(make_sae: Make) -> None:
    basis = torch.linalg.qr(directions(16, 16, 0)).Q
    near = F.normalize(basis[0] + 0.5 * basis[1], dim=0)  # cosine 0.894 with the first, 0.447 with the second
    W_dec = torch.cat([basis[:8], near.unsqueeze(0), 3 * basis[7:8]])
    metrics, details = geometry(from_decoder(make_sae, W_dec), seed=0)
    found = named(metrics)
    expected = [2 / 5**0.5, 1 / 5**0.5, *[0.0] * 5, 1.0, 2 / 5**0.5, 1.0]
    assert found["max_decoder_similarity"].value == pytest.approx(sum(expected) / 10, abs=1e-6)
    assert found["similar_share"].value == pytest.approx(0.4)
    assert found["duplicate_share"].value == pytest.approx(0.2)
    assert found["encoder_decoder_cosine"].value == pytest.approx(1)
    assert details["nearest_pairs"][0][2] == pytest.approx(1)
    assert sum(details["neighbour_histogram"]["counts"]) == 10
    alone = named(geometry(from_decoder(make_sae, W_dec[:1]), seed=0)[0])
    assert alone["max_decoder_similarity"].reason == "a single latent has no neighbours"


def test_a_random_dictionary_matches_another_no_better_than_chance(make_sae: Make) -> None:
    one, other = (from_decoder(make_sae, directions(400, 24, seed)) for seed in (1, 2))
    found = named(compare(one, other, seed=3)[0])
    assert 0.4 < (found["random_match_share"].value or 0) < 0.6
    assert found["mean_max_cosine"].value == pytest.approx(found["random_mean_max_cosine"].value, abs=0.02)
    same = named(compare(one, one, seed=3)[0])
    assert same["random_match_share"].value == 0


def test_the_same_features_in_another_order_are_recognised(make_sae: Make) -> None:
    W_dec = directions(50, 24, 0)
    shuffled = W_dec[torch.randperm(50, generator=torch.Generator().manual_seed(1))] * 2.5
    found = named(compare(from_decoder(make_sae, W_dec), from_decoder(make_sae, shuffled), seed=0)[0])
    for name in ("mean_max_cosine", "mean_max_cosine_back", "shared", "matched_cosine", "matched_share"):
        assert found[name].value == pytest.approx(1)
    assert found["novel_share"].reason == "both dictionaries have the same size"


def test_the_matching_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch, make_sae: Make) -> None:
    one, other = directions(4, 5, 0), directions(6, 5, 1)
    cosines = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T
    best = max(sum(float(cosines[row, column]) for row, column in enumerate(chosen)) for chosen in permutations(range(6), 4))
    matched = hungarian(one, other)
    assert matched is not None and float(matched.sum()) == pytest.approx(best, rel=1e-5)
    monkeypatch.setattr(dictionary_pair, "MOST_PAIRS", 20)
    found = named(compare(from_decoder(make_sae, one), from_decoder(make_sae, other), seed=0)[0])
    assert found["matched_cosine"].reason == "24 pairs are too many to match one to one: at most 20"


@pytest.mark.parametrize("swap", [False, True])
def test_split_features_are_counted(make_sae: Make, swap: bool) -> None:
    """Four small latents: one split in three, one kept, two absent; two of the large are novel."""
    basis = torch.linalg.qr(directions(16, 16, 0)).Q
    small = basis[:4]
    children = F.normalize(basis[0] + 0.4 * basis[[8, 9, 10]], dim=1)
    large = torch.cat([children, basis[1:2], basis[12:14]])
    pair = [from_decoder(make_sae, small), from_decoder(make_sae, large)]
    found = named(compare(*(pair[::-1] if swap else pair), seed=0)[0])
    assert found["novel_share"].value == pytest.approx(2 / 6)
    assert found["split_share"].value == pytest.approx(1 / 4)
    assert found["children"].value == pytest.approx(2) and found["children"].n == 2


def test_dictionaries_of_different_places_are_not_compared(make_sae: Make) -> None:
    one = make_sae()
    with pytest.raises(SaebenchError, match="on the same hook can be compared"):
        compare(one, make_sae(d=16), seed=0)
    elsewhere = replace(one, info=replace(one.info, hook_in="blocks.2.hook_resid_post"))
    with pytest.raises(SaebenchError, match=r"writes at blocks\.1\.hook_resid_post"):
        compare(one, elsewhere, seed=0)
    other_spelling = replace(one, info=replace(one.info, hook_in="model.layers.1"))
    assert named(compare(one, other_spelling, seed=0)[0])["shared"].value == 1


def test_the_evaluator_needs_no_text(tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Make) -> None:
    class Identity:
        def encode(self, x: Tensor) -> Tensor:
            return x

        def decode(self, z: Tensor) -> Tensor:
            return z

    settings: dict[str, Any] = {"model": tiny_model, "hook": HOOK, "corpus": tiny_corpus, "progress": False}
    card = saebench.evaluate(make_sae(), evaluators=["dictionary", "reconstruction"], **settings)
    assert card.result.failures == {}
    for name in ("max_decoder_similarity", "encoder_decoder_cosine"):
        assert card[f"dictionary.{name}"] == pytest.approx(card[f"reconstruction.{name}"])
    with pytest.raises(SaebenchError, match="dictionary needs weights"):
        saebench.evaluate(Identity(), evaluators=["dictionary"], **settings)
    with pytest.raises(SaebenchError, match="has no option 'other'; it has none"):
        saebench.evaluate(make_sae(), evaluators=["dictionary"], options={"dictionary": {"other": 1}}, **settings)


def test_the_command_prints_and_writes(tmp_path: Path, make_sae: Make) -> None:
    one, other = save_native(make_sae(), tmp_path / "one"), save_native(make_sae(n=96, seed=1), tmp_path / "other")
    runner, out = CliRunner(), tmp_path / "pair.json"
    done = runner.invoke(app, ["dictionary", str(one), str(other), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "matched_cosine" in done.output and "split_share" in done.output
    record = json.loads(out.read_text())
    assert len(record["metrics"]) == 10 and str(tmp_path) not in json.dumps(record["dictionaries"])
    alone = runner.invoke(app, ["dictionary", str(one)])
    assert alone.exit_code == 0 and "effective_rank" in alone.output
    third = save_native(make_sae(d=8), tmp_path / "third")
    refused = runner.invoke(app, ["dictionary", str(one), str(third)])
    assert isinstance(refused.exception, SaebenchError)
    assert "only dictionaries on the same hook can be compared" in str(refused.exception)
