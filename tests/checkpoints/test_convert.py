"""Conversions keep every number, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saebench import checkpoints
from saebench.checkpoints.convert import convert
from saebench.errors import SaebenchError
from saebench.lm.hooks import parse_hook
from saebench.sae import GroupMax, InputScaling, ProLU, SparseAutoencoder, TopK
from tests.conftest import FIXTURES

HELD = [
    "saelens/standard", "saelens/standard_constant_norm", "saelens/gated", "saelens/topk_rescaled", "saelens/abstopk",
    "saelens/jumprelu", "saelens/skip_transcoder", "dictionary_learning/AutoEncoderNew", "dictionary_learning/BatchTopKSAE",
    "openai/TopK", "llama_scope/openmoss", "gemma_scope/gemma-scope-2b-pt-res/layer_12/width_16k", "goodfire",
]  # fmt: skip


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("format", ["saelens", "saebench"])
def test_conversion_keeps_latents_and_reconstructions(name: str, format: str, tmp_path: Path) -> None:
    sae = checkpoints.load(FIXTURES / name)
    again = checkpoints.load(convert(sae, tmp_path / "converted", format))
    assert again.info.format == format
    x = 2 * torch.randn(40, sae.d_in, generator=torch.Generator().manual_seed(0))
    before, after = sae.encode(x), again.encode(x)
    torch.testing.assert_close(after.to_dense(), before.to_dense(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.decode(after, x), sae.decode(before, x), atol=1e-5, rtol=1e-5)
    for mine, theirs in ((again.info.hook_in, sae.info.hook_in), (again.info.hook_out, sae.info.hook_out)):
        if theirs is not None:
            assert mine is not None and parse_hook(mine) == parse_hook(theirs)
            assert format != "saelens" or mine == parse_hook(theirs).name


def test_what_saelens_cannot_hold_is_refused(make_sae: Callable[..., SparseAutoencoder], tmp_path: Path) -> None:
    for sae, words in (
        (make_sae(activation=GroupMax(8)), "groupmax"),
        (make_sae(activation=ProLU(torch.zeros(64))), "prolu"),
        (make_sae(activation=TopK(3, relu=False)), "topk"),
        (make_sae(scaling=InputScaling("unit_norm")), "unit_norm"),
        (make_sae(b_pre=torch.ones(32)), "decoder's bias or nothing"),
    ):
        with pytest.raises(SaebenchError, match=words):
            convert(sae, tmp_path / "sae", "saelens")
        assert not (tmp_path / "sae").exists()
    with pytest.raises(SaebenchError, match="there are: saebench, saelens"):
        convert(make_sae(), tmp_path / "sae", "pickle")
