from __future__ import annotations

from typing import Any

import pytest
import torch

from saebench.lm.bridge import CACHE_ARGUMENTS
from saebench.lm.continuation import Continuation, cache_trouble
from tests.lm.test_model import CONFIGS, random_model

HOOKS = (
    "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out",
    "blocks.1.attn.hook_z", "blocks.1.hook_resid_mid", "blocks.0.mlp.hook_post",
)  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cached", [True, False])
def test_positions_run_again_equal_the_whole_row_run_again(name: str, cached: bool) -> None:
    """At positions before, at and beyond Gemma-2's window of 8."""
    _, lm = random_model(name)
    tokens = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(0))
    for hook in HOOKS:
        if name == "neox" and "resid_mid" in hook:
            continue
        cut = lm.cut(hook)
        prefix = cut.prefix(tokens)
        spliced = prefix.outputs + torch.randn(prefix.outputs.shape, generator=torch.Generator().manual_seed(1))
        assert cache_trouble(cut, spliced, prefix, 10, 5) is None
        kept = Continuation(cut, spliced, prefix, cached)
        torch.testing.assert_close(kept.logits, cut.suffix(spliced, prefix), atol=1e-4, rtol=0)
        for start in (0, 1, 11):
            changed = spliced[:, start : start + 5].repeat(3, 1, 1)
            changed[:, 0] += torch.randn(3, cut.d_out, generator=torch.Generator().manual_seed(2))
            found = kept.run(changed, start)
            assert found.shape == (3, 5, 200)
            for one, logits in zip(changed, found, strict=True):
                whole = spliced.clone()
                whole[0, start : start + 5] = one
                expected = cut.suffix(whole, prefix)[0, start : start + 5]
                torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_a_model_whose_cache_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.hook_resid_post")
    prefix = cut.prefix(torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(0)))

    def forgets(self: Continuation, length: int, batch: int) -> Any:
        from transformers import DynamicCache

        return DynamicCache()

    monkeypatch.setattr(Continuation, "_past", forgets)
    assert "differ" in str(cache_trouble(cut, prefix.outputs, prefix, 10, 5))


def test_a_cache_that_a_model_does_not_take_or_fill_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.hook_resid_post")
    prefix = cut.prefix(torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(0)))
    assert lm.cache_argument in CACHE_ARGUMENTS
    monkeypatch.setattr(lm, "cache_argument", None)
    assert cache_trouble(cut, prefix.outputs, prefix, 10, 5) == "NoCache: LlamaForCausalLM accepts no key-value cache"
    monkeypatch.setattr(lm, "run", lambda tokens, hooks, cache=None, **inputs: torch.zeros(1, tokens.shape[1], 200))
    assert "left layer 2 of the cache empty" in str(cache_trouble(cut, prefix.outputs, prefix, 10, 5))


def test_an_error_that_is_not_about_the_cache_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.hook_resid_post")
    prefix = cut.prefix(torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(0)))

    def out_of_memory(self: Continuation, length: int, batch: int) -> Any:
        raise MemoryError

    monkeypatch.setattr(Continuation, "_past", out_of_memory)
    with pytest.raises(MemoryError):
        cache_trouble(cut, prefix.outputs, prefix, 10, 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_continuation_runs_new_positions_through_the_upper_layers_alone(name: str) -> None:
    """Tokens that each block computes: losing the cache would make them 15 a row instead of 5."""
    _, lm = random_model(name)
    cut = lm.cut("blocks.1.hook_resid_post")
    prefix = cut.prefix(torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(0)))
    kept = Continuation(cut, prefix.outputs, prefix)
    computed = [0] * lm.n_layers
    for layer, block in enumerate(lm.bridge.blocks):
        if layer >= cut.first_layer_above:
            block.register_forward_pre_hook(
                lambda module, args, kwargs, layer=layer: computed.__setitem__(
                    layer, computed[layer] + (args[0] if args else kwargs["hidden_states"]).shape[:2].numel()
                ),
                with_kwargs=True,
            )
    kept.run(prefix.outputs[:, 10:15].repeat(3, 1, 1), 10)
    assert computed == [0, 0] + [15] * (lm.n_layers - 2)
