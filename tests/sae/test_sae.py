"""Sparse autoencoders against plain dense versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import saebench.sae.model as model
from saebench.errors import SaebenchError
from saebench.sae import (
    Activation,
    Gated,
    GroupMax,
    InputScaling,
    JumpReLU,
    ProLU,
    ReLU,
    SparseAutoencoder,
    SparseLatents,
    TopK,
    wrap,
)
from saebench.sae.latents import pack_slots
from saebench.sae.topk import top_k

N, D = 48, 32
G = torch.Generator().manual_seed(0)
THRESHOLD, R_MAG, B_MAG, B_ENC, BIAS = (torch.randn(N, generator=G) * 0.3 for _ in range(5))


def plain_topk(pre: Tensor, k: int) -> Tensor:
    return torch.zeros_like(pre).scatter(1, pre.topk(k, dim=1).indices, 1.0)


PLAIN: dict[str, tuple[Activation, Callable[[Tensor], Tensor]]] = {
    "relu": (ReLU(), lambda pre: pre.clamp_min(0)),
    "jumprelu": (JumpReLU(THRESHOLD.abs()), lambda pre: torch.where(pre > THRESHOLD.abs(), pre, 0)),
    "gated": (
        Gated(R_MAG, B_MAG, B_ENC),
        lambda pre: torch.where(pre > 0, ((pre - B_ENC) * R_MAG.exp() + B_MAG).clamp_min(0), 0),
    ),
    "prolu": (ProLU(BIAS), lambda pre: torch.where((pre + BIAS > 0) & (pre > 0), pre, 0)),
    "topk": (TopK(5), lambda pre: plain_topk(pre, 5) * pre.clamp_min(0)),
    "topk without relu": (TopK(40, relu=False), lambda pre: plain_topk(pre, 40) * pre),
    "signed topk": (TopK(5, signed=True), lambda pre: plain_topk(pre.abs(), 5) * pre),
    "groupmax": (
        GroupMax(8),
        lambda pre: (
            torch.zeros(pre.shape[0], 8, 6)
            .scatter(2, pre.view(-1, 8, 6).argmax(2, keepdim=True), 1.0)
            .flatten(1) * pre.clamp_min(0)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("budget", [2**24, 100])
def test_each_activation_agrees_with_the_plain_one_at_once_and_in_chunks(
    name: str, budget: int, make_sae: Callable[..., SparseAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "PRE_ACTIVATION_BUDGET", budget)
    monkeypatch.setattr(model, "SMALLEST_CHUNK", 7)
    activation, plain = PLAIN[name]
    sae = make_sae(d=D, n=N, activation=activation, b_enc=B_ENC, b_pre=torch.full((D,), 0.1), b_dec=torch.full((D,), 0.2))
    x = torch.randn(60, D, generator=torch.Generator().manual_seed(1))
    expected = plain((x - 0.1) @ sae.W_enc + B_ENC)
    latents = sae.encode(x)
    torch.testing.assert_close(latents.to_dense(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(latents), expected @ sae.W_dec + 0.2, atol=1e-5, rtol=1e-5)
    assert torch.equal(latents.l0(), (expected != 0).sum(1))
    torch.testing.assert_close(latents.l1(), expected.abs().sum(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.pre_activations(x, 10, 20), ((x - 0.1) @ sae.W_enc + B_ENC)[:, 10:20])


@pytest.mark.parametrize("kind", ["none", "layer_norm", "unit_norm", "constant_norm", "dataset"])
def test_scaling_is_undone_on_decoding(kind: str, make_sae: Callable[..., SparseAutoencoder]) -> None:
    """A dictionary that holds the identity reconstructs exactly, whatever the scaling."""
    eye = torch.cat([torch.eye(D), -torch.eye(D)])
    scaling = InputScaling(kind, input_scale=0.25, output_scale=0.25)  # type: ignore[arg-type]
    sae = make_sae(d=D, n=2 * D, activation=ReLU(), W_enc=eye.T, W_dec=eye, scaling=scaling)
    x = 50 + 10 * torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.decode(sae.encode(x)), x, rtol=1e-4, atol=1e-3)
    scaled = scaling.apply(x).activations
    if kind == "unit_norm":
        torch.testing.assert_close(scaled.norm(dim=1), torch.ones(20))
        torch.testing.assert_close(scaled.mean(1), torch.zeros(20), atol=1e-6, rtol=0)
    if kind == "layer_norm":
        torch.testing.assert_close(scaled.std(1), torch.ones(20), rtol=1e-4, atol=1e-4)
    if kind == "constant_norm":
        torch.testing.assert_close(scaled.norm(dim=1), torch.full((20,), D**0.5))


def test_a_skip_connection_needs_and_uses_the_input(make_sae: Callable[..., SparseAutoencoder]) -> None:
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(0))
    sae, plain = make_sae(d=D, n=N, W_skip=skip), make_sae(d=D, n=N)
    x = torch.randn(4, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sae.decode(sae.encode(x), x), plain.decode(plain.encode(x)) + x @ skip)
    with pytest.raises(ValueError, match="skip connection"):
        sae.decode(sae.encode(x))


@given(
    st.integers(1, 40), st.integers(1, 700), st.integers(0, 10_000), st.sampled_from([0, 1, 5]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_top_k_is_exact(k: int, columns: int, seed: int, levels: int) -> None:
    """Also with ties (few levels) and ragged widths."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, columns, generator=generator)
    if levels:
        x = (x * levels).round()
    k = min(k, columns)
    values, indices = top_k(x, k)
    assert torch.equal(values.sort().values, x.topk(k, dim=1).values.sort().values)
    assert torch.equal(x.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.floats(0.5, 2)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_entry(entries: list[tuple[int, int, float]]) -> None:
    unique = {(row, column): value for row, column, value in entries}
    rows, columns = (torch.tensor([key[place] for key in unique], dtype=torch.long) for place in (0, 1))
    indices, values = pack_slots(rows, columns, torch.tensor(list(unique.values())), 6)
    dense = SparseLatents(indices, values, 10).to_dense()
    expected = torch.zeros(6, 10)
    for (row, column), value in unique.items():
        expected[row, column] = value
    assert torch.equal(dense, expected)


def test_the_largest_latents_of_a_code() -> None:
    dense = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 0.0, 0.0]])
    latents = SparseLatents.from_dense(dense)
    assert latents.largest(2).to_dense().tolist() == [[0, 3, 0, 2], [5, 0, 0, 0]]
    signed = SparseLatents.from_dense(torch.tensor([[1.0, -3.0, 2.0]]))
    assert signed.largest(2).to_dense().tolist() == [[0, -3, 2]]
    assert latents.rows(torch.tensor([1])).to_dense().tolist() == [[5, 0, 0, 0]]
    assert latents.where(latents.values > 2).to_dense().tolist() == [[0, 3, 0, 0], [5, 0, 0, 0]]


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "prolu", "topk"])
def test_a_prefix_is_the_autoencoder_of_the_first_latents(name: str, make_sae: Callable[..., SparseAutoencoder]) -> None:
    activation, plain = PLAIN[name]
    sae = make_sae(d=D, n=N, activation=activation, b_enc=B_ENC)
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    part = sae.prefix(10)
    if name == "topk":
        expected = plain_topk(x @ sae.W_enc[:, :10] + B_ENC[:10], 5) * (x @ sae.W_enc[:, :10] + B_ENC[:10]).clamp_min(0)
    else:
        expected = plain(x @ sae.W_enc + B_ENC)[:, :10]
    torch.testing.assert_close(part.encode(x).to_dense(), expected)
    assert part.decode(part.encode(x)).shape == (20, D)


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 20)

    def encode(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x).relu()
        return out

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.linear.weight


def test_any_object_that_encodes_and_decodes_is_evaluated() -> None:
    torch.manual_seed(0)
    inner = Module()
    sae = wrap(inner, 8)
    x = torch.randn(5, 8)
    assert (sae.d_in, sae.d_out, sae.n_latents) == (8, 8, 20)
    torch.testing.assert_close(sae.encode(x).to_dense(), inner.encode(x))
    torch.testing.assert_close(sae.decode(sae.encode(x), x), inner.decode(inner.encode(x)))
    with pytest.raises(SaebenchError, match=r"trial input of shape \[2, 9\] failed"):
        wrap(inner, 9)
    with pytest.raises(SaebenchError, match="encode and decode"):
        wrap(object(), 8)


def test_what_does_not_fit_together_is_refused(make_sae: Callable[..., SparseAutoencoder]) -> None:
    with pytest.raises(SaebenchError, match="k must be between 1 and"):
        make_sae(activation=TopK(65))
    with pytest.raises(SaebenchError, match=r"threshold has shape \[3\]"):
        make_sae(activation=JumpReLU(torch.zeros(3)))
    with pytest.raises(SaebenchError, match="do not divide"):
        make_sae(activation=GroupMax(7))
    with pytest.raises(SaebenchError, match=r"b_dec has shape \[3\]"):
        make_sae(b_dec=torch.zeros(3))
    broken = make_sae()
    broken.b_enc[2] = torch.inf
    with pytest.raises(SaebenchError, match="b_enc holds NaN or infinite"):
        broken.check_finite()
