from __future__ import annotations

from typing import Any

import pytest
import torch

from saebench.lm.continuation import Continuation, supports_cache
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
        assert supports_cache(cut, spliced, prefix, 10, 5)
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
    assert not supports_cache(cut, prefix.outputs, prefix, 10, 5)
