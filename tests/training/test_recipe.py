"""Each part of the recipe by itself, against a plain version."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize

from saebench.training import recipe


def test_the_geometric_median_minimises_the_sum_of_distances() -> None:
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) ** 3
    found = recipe.geometric_median(points)
    best = minimize(
        lambda m: (points.double() - torch.tensor(m)).norm(dim=1).sum().item(), points.double().mean(0).numpy(), tol=1e-10
    )
    torch.testing.assert_close(found, torch.tensor(best.x, dtype=torch.float32), atol=1e-3, rtol=0)


def test_an_outlier_does_not_move_the_geometric_median() -> None:
    points = torch.zeros(101, 4)
    points[0] = 1e6
    assert float(recipe.geometric_median(points).norm()) < 1e-3


def test_reconstructions_start_at_the_scale_of_the_input() -> None:
    generator = torch.Generator().manual_seed(5)
    decoder = recipe.initial_decoder(512, 64, 0)
    encoder = recipe.initial_encoder(decoder, 16, 0)
    x = torch.nn.functional.normalize(torch.randn(500, 64, generator=generator), dim=1)
    values, indices = (x @ encoder.T).topk(16, dim=1)
    reconstruction = torch.einsum("tk,tkd->td", values.relu(), decoder[indices])
    assert float(reconstruction.norm(dim=1).mean()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(encoder / encoder.norm(dim=1, keepdim=True), decoder)


def test_the_parallel_part_of_the_gradient_is_projected_out() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder = recipe.initial_decoder(10, 6, 0)
    gradient = torch.randn(10, 6, generator=generator)
    expected = gradient - (gradient * decoder).sum(1, keepdim=True) * decoder
    recipe.project_out_parallel(decoder, gradient)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close((gradient * decoder).sum(1), torch.zeros(10), atol=1e-6, rtol=0)
    decoder *= torch.linspace(0.5, 2, 10)[:, None]
    recipe.normalise_decoder(decoder)
    torch.testing.assert_close(decoder.norm(dim=1), torch.ones(10))


@pytest.mark.parametrize(("d", "k"), [(768, 512), (576, 256), (64, 32), (2304, 1024), (1, 1)])
def test_k_aux_is_the_power_of_two_nearest_to_half_the_width(d: int, k: int) -> None:
    assert recipe.default_k_aux(d) == k


def test_warm_up_and_decay() -> None:
    factors = [recipe.learning_rate_factor(step, 100, 4, 0.2) for step in range(100)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[79] == 1 and factors[80] == pytest.approx(20 / 21) and factors[99] == pytest.approx(1 / 21)
    assert [recipe.learning_rate_factor(step, 10, 0, 0) for step in range(10)] == [1.0] * 10


def test_the_average_is_corrected_for_its_start() -> None:
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    average = recipe.Average({"w": values[0]}, 0.9)
    for value in values:
        average.update({"w": value})
    weights = torch.tensor([0.9 ** (6 - i) for i in range(7)])
    torch.testing.assert_close(average.value()["w"], (values * weights[:, None]).sum(0) / weights.sum())
