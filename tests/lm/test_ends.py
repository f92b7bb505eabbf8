"""Logits at one position of each row are those of the whole row, in every architecture, and cost one position."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from saebench.lm.ends import end_logits
from saebench.planted import PlantedConfig, plant
from tests.lm.test_model import CONFIGS, random_model

TOKENS = torch.randint(3, 200, (3, 9), generator=torch.Generator().manual_seed(0))
ENDS = torch.tensor([8, 2, 5])


@pytest.mark.parametrize("name", CONFIGS)
def test_they_are_those_of_the_whole_row(name: str) -> None:
    model = random_model(name)[1]
    widths = []
    unembedding = model.bridge.unembed.original_component
    assert isinstance(unembedding, nn.Linear)
    handle = unembedding.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    whole = model.logits(TOKENS)
    found = end_logits(model, ENDS, partial(model.logits, TOKENS))
    last = end_logits(model, -1, partial(model.logits, TOKENS))
    handle.remove()
    torch.testing.assert_close(found, whole[torch.arange(3), ENDS], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, whole[:, -1], rtol=1e-5, atol=1e-5)
    assert widths == [9, 1, 1]
    assert model.logits(TOKENS).shape == whole.shape  # nothing stays behind


def test_gradients_reach_the_activations() -> None:
    model = random_model("llama")[1]
    cut = model.cut("blocks.1.hook_resid_post")
    prefix = cut.prefix(TOKENS)
    slow, fast = (prefix.outputs.clone().requires_grad_() for _ in range(2))
    cut.differentiable_suffix(slow, prefix)[torch.arange(3), ENDS].square().sum().backward()
    end_logits(model, ENDS, partial(cut.differentiable_suffix, fast, prefix)).square().sum().backward()
    assert slow.grad is not None and fast.grad is not None and float(slow.grad.abs().max()) > 0
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-5)


def test_a_pass_that_does_not_reach_the_unembedding() -> None:
    world = plant(PlantedConfig())
    tokens = world.corpus(64).tokens
    found = end_logits(world.model, -1, partial(world.model.logits, tokens))
    torch.testing.assert_close(found, world.model.logits(tokens)[:, -1])


def test_nothing_stays_behind_after_an_error() -> None:
    model = random_model("llama")[1]
    whole = model.logits(TOKENS)
    with pytest.raises(ZeroDivisionError):
        end_logits(model, ENDS, lambda: (model.logits(TOKENS), 1 / 0)[0])
    assert torch.equal(model.logits(TOKENS), whole)
