"""Losses and gradients against plain dense versions in float64 with autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saebench.sae.sparse_ops import Entries, pick_pre_activations, sparse_decode
from saebench.training.config import TrainingConfig
from saebench.training.mesh import Mesh
from saebench.training.objectives import OBJECTIVES, Objective, Weights, make_objective
from saebench.training.objectives.batchtopk import BatchTopK
from saebench.training.objectives.jumprelu import jump, step

TOKENS, D, N, K = 24, 6, 20, 3


def setting(arch: str, **changes: object) -> tuple[Objective, Tensor]:
    """An objective with double-precision weights, and a batch."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    weights = Weights(draw(N, D), torch.nn.functional.normalize(draw(N, D), dim=1), 0.1 * draw(D))
    with torch.no_grad():
        weights.b_enc.data = 0.1 * draw(N)
    config = TrainingConfig(arch=arch, n=N, k=K, **changes)  # type: ignore[arg-type]
    objective = make_objective(config, weights, Mesh())
    objective.variance = 2.5
    for parameter in objective.extra_parameters().values():
        parameter.data = parameter.data.double() + 0.05 * draw(N)
    return objective, draw(TOKENS, D)


def top_mask(pre: Tensor, k: int) -> Tensor:
    return torch.zeros_like(pre).scatter(-1, pre.topk(k, dim=-1).indices, 1.0)


def topk_loss(objective: Objective, x: Tensor, k: int = K) -> Tensor:
    w = objective.weights
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc
    z = pre.relu() * top_mask(pre, k)
    return (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance


def aux_loss(objective: Objective, x: Tensor, k_aux: int) -> Tensor:
    w, dead = objective.weights, objective.dead
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc
    z = pre.relu() * top_mask(pre, K)
    error = (x - (z @ w.decoder + w.b_dec)).detach()
    masked = pre.masked_fill(~dead, -torch.inf)
    z_aux = torch.where(dead, pre, 0).relu() * top_mask(masked, min(k_aux, int(dead.sum())))
    scale = (error - error.mean(0)).square().sum(1).mean()
    return (z_aux @ w.decoder - error).square().sum(1).mean() / scale / 32


def batchtopk_loss(objective: Objective, x: Tensor) -> Tensor:
    w = objective.weights
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc
    z = pre.relu() * top_mask(pre.flatten(), TOKENS * K).view_as(pre)
    return (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance


def matryoshka_loss(objective: Objective, x: Tensor) -> Tensor:
    w = objective.weights
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc
    z = pre.relu() * top_mask(pre.flatten(), TOKENS * K).view_as(pre)
    errors = [(z[:, :m] @ w.decoder[:m] + w.b_dec - x).square().sum(1).mean() for m in (4, 10, 20)]
    return torch.stack(errors).mean() / objective.variance


def gated_loss(objective: Objective, x: Tensor) -> Tensor:
    w, extra = objective.weights, objective.extra_parameters()
    gate = (x - w.b_dec) @ w.encoder.T + w.b_enc
    magnitude = (x - w.b_dec) @ (w.encoder * extra["r_mag"].exp()[:, None]).T + extra["b_mag"]
    z = magnitude.relu() * (gate > 0)
    error = (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance
    seen = (gate.relu() @ w.decoder.detach() + w.b_dec.detach() - x).square().sum(1).mean() / objective.variance
    return error + 0.01 * gate.relu().sum(1).mean() + seen


def relu_loss(objective: Objective, x: Tensor) -> Tensor:
    w = objective.weights
    z = ((x - w.b_dec) @ w.encoder.T + w.b_enc).relu()
    return (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance + 0.01 * z.sum(1).mean()


def jumprelu_loss(objective: Objective, x: Tensor) -> Tensor:
    w, width = objective.weights, objective.config.bandwidth
    threshold = objective.extra_parameters()["log_threshold"].exp()
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc
    near = ((pre - threshold).abs() < width / 2).double()
    moved = threshold - threshold.detach()  # 0, with the gradient of the threshold
    z = pre * (pre > threshold) - (threshold.detach() / width) * near * moved
    l0 = (pre > threshold).double() - near / width * moved
    return (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance + 0.01 * l0.sum(1).mean()


def prolu_loss(objective: Objective, x: Tensor) -> Tensor:
    w, bias = objective.weights, objective.extra_parameters()["prolu_bias"]
    pre = (x - w.b_dec) @ w.encoder.T + w.b_enc.detach()
    z = (pre + bias - bias.detach()) * ((pre + bias > 0) & (pre > 0))
    return (z @ w.decoder + w.b_dec - x).square().sum(1).mean() / objective.variance + 0.01 * z.sum(1).mean()


@pytest.mark.parametrize(
    ("arch", "plain", "changes"),
    [
        ("topk", topk_loss, {}),
        ("multitopk", lambda o, x: topk_loss(o, x) + topk_loss(o, x, 4 * K) / 8, {}),
        ("batchtopk", batchtopk_loss, {}),
        ("matryoshka", matryoshka_loss, {"group_sizes": (4, 6, 10)}),
        ("relu", relu_loss, {"sparsity": 0.01}),
        ("gated", gated_loss, {"sparsity": 0.01}),
        ("jumprelu", jumprelu_loss, {"sparsity": 0.01, "bandwidth": 0.5}),
        ("prolu", prolu_loss, {"sparsity": 0.01}),
    ],
)
def test_loss_and_gradients_are_the_plain_ones(
    arch: str, plain: Callable[[Objective, Tensor], Tensor], changes: dict[str, object]
) -> None:
    objective, x = setting(arch, **changes)
    parameters = [*objective.weights.parameters(), *objective.extra_parameters().values()]
    parameters = [each for each in parameters if each.requires_grad]
    ours, expected = objective.outcome(x).loss, plain(objective, x)
    torch.testing.assert_close(ours, expected)
    for mine, theirs in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("k_aux", [4, 100])
def test_auxk_is_the_plain_one_and_uses_all_dead_latents_where_they_are_few(k_aux: int) -> None:
    objective, x = setting("topk", k_aux=k_aux)
    objective.dead[[1, 4, 7, 8, 12, 19]] = True
    parameters = list(objective.weights.parameters())
    ours, expected = objective.outcome(x).loss, topk_loss(objective, x) + aux_loss(objective, x, k_aux)
    torch.testing.assert_close(ours, expected)
    for mine, theirs in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_auxk_is_zero_where_it_is_not_finite() -> None:
    objective, x = setting("topk")
    objective.dead[:] = True
    pre = torch.zeros(TOKENS, N, dtype=torch.float64)
    assert objective.auxiliary(x, pre, torch.zeros_like(x)).item() == 0


def test_sparse_products_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 0, 1, 3, 3, 3])
    entries = Entries(rows, torch.tensor([2, 4, 2, 0, 1, 4]), 4)
    values = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t: sparse_decode(entries, v, t), (values, table))
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)

    def pick(x: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return pick_pre_activations(x, table, bias, x @ table.T + bias, entries)

    dense = (x @ table.T + bias)[entries.rows, entries.columns]
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(pick(x.detach().requires_grad_(), table, bias) @ weights, (table, bias)),
        torch.autograd.grad(dense @ weights, (table, bias)), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, theirs)


def test_batchtopk_selects_the_same_with_and_without_its_guess() -> None:
    objective, _ = setting("batchtopk")
    assert isinstance(objective, BatchTopK)
    for seed in range(5):
        pre = torch.randn(TOKENS, N, generator=torch.Generator().manual_seed(seed))
        entries = objective.select(pre)
        expected = pre.flatten().topk(TOKENS * K).indices.sort().values
        assert torch.equal(entries.rows * N + entries.columns, expected)


def test_jumprelu_gradients_are_the_stated_pseudo_derivatives() -> None:
    pre = torch.tensor([[0.48, 0.7, 0.2], [0.52, 0.51, 0.9]], dtype=torch.float64, requires_grad=True)
    threshold = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    to_pre, to_threshold = torch.autograd.grad((jump(pre, threshold.expand(2, 3), 0.1) * weights).sum(), (pre, threshold))
    assert torch.equal(to_pre, weights * (pre > 0.5))
    torch.testing.assert_close(to_threshold, torch.tensor([-(0.5 / 0.1) * 5, -(0.5 / 0.1) * 5, 0.0], dtype=torch.float64))
    (alone,) = torch.autograd.grad((step(pre, threshold.expand(2, 3), 0.1) * weights).sum(), threshold)
    torch.testing.assert_close(alone, torch.tensor([-50.0, -50.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("arch", OBJECTIVES)
def test_every_architecture_counts_its_active_latents(arch: str) -> None:
    objective, x = setting(arch)
    outcome = objective.outcome(x)
    assert 0 < outcome.l0 <= N and outcome.fired.shape == (N,) and bool(outcome.fired.any())
