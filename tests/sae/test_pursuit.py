"""Matching pursuit against a slow plain version, and on dictionaries where the answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.sae import MatchingPursuit, SparseAutoencoder, pursuit

Make = Callable[..., SparseAutoencoder]


def slow(x: torch.Tensor, W_dec: torch.Tensor, function: MatchingPursuit) -> torch.Tensor:
    """One token after the other, with dense values: ``[tokens, n]``."""
    dense = torch.zeros(x.shape[0], W_dec.shape[0])
    for token, start in enumerate(x):
        residual = start.clone()
        for _ in range(function.iterations):
            products = W_dec @ residual
            latent = int(products.argmax())
            taken = bool(dense[token, latent] != 0)
            value = max(float(products[latent]), 0.0)
            dense[token, latent] += value
            residual = residual - value * W_dec[latent]
            if value == 0 or (taken and function.stop_on_repeat) or float(residual.norm()) < function.threshold:
                break
    return dense


@pytest.mark.parametrize(
    "function", [MatchingPursuit(0.0, 32), MatchingPursuit(1.5, 32), MatchingPursuit(0.0, 20, stop_on_repeat=False)]
)
def test_it_is_what_a_plain_loop_computes(
    function: MatchingPursuit, make_sae: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pursuit, "CHUNK_ELEMENTS", 50 * 7)  # chunks of 7 latents
    sae = make_sae(d=16, n=48, activation=function)
    x = 3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    expected = slow(x, sae.W_dec, function)
    code = sae.encode(x)
    torch.testing.assert_close(code.to_dense(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(code.l0(), (expected != 0).sum(1))


def test_orthogonal_directions_are_found_exactly(make_sae: Make) -> None:
    sae = make_sae(d=16, n=16, W_enc=torch.eye(16), W_dec=torch.eye(16), activation=MatchingPursuit(1e-3, 16))
    code = torch.zeros(2, 16)
    code[0, [3, 7]], code[1, 2] = torch.tensor([2.0, 0.5]), 1.0
    found = sae.encode(code)
    assert torch.equal(found.to_dense(), code) and found.l0().tolist() == [2, 1]
    assert not sae.encode(-code).active.any()  # no product is positive
    assert torch.equal(sae.decode(found), code)


def test_fewer_latents_are_pursued_alone(make_sae: Make) -> None:
    function = MatchingPursuit(0.0, 8)
    sae = make_sae(d=16, n=48, activation=function)
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sae.prefix(20).encode(x).to_dense(), slow(x, F.normalize(sae.W_dec[:20], dim=1), function))


@pytest.mark.parametrize(
    "changes", [{"threshold": "low"}, {"stop_on_repeat": 1}, {"iterations": None}, {"iterations": 10**9}]
)
def test_malformed_settings_of_a_file_are_named(changes: dict[str, object], make_sae: Make, tmp_path: Path) -> None:
    folder = checkpoints.save_native(make_sae(activation=MatchingPursuit(0.5, 4)), tmp_path / "sae")
    assert checkpoints.load(folder).activation == MatchingPursuit(0.5, 4)
    config = json.loads((folder / "sae.json").read_text())
    config["sae"]["activation"] |= changes
    (folder / "sae.json").write_text(json.dumps(config))
    with pytest.raises(SaebenchError, match=f"{next(iter(changes))}|1000000000 steps"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("function", "words"), [(MatchingPursuit(0.1, 0), "after 0 steps"), (MatchingPursuit(float("nan"), 3), "below nan")]
)
def test_settings_without_meaning_are_refused(function: MatchingPursuit, words: str, make_sae: Make) -> None:
    with pytest.raises(SaebenchError, match=words):
        make_sae(activation=function)
