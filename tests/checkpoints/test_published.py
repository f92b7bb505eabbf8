"""Published layouts without a package: small files in the layout, against formulas written here in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saebench import checkpoints
from saebench.errors import SaebenchError

D, N, K = 8, 24, 3
Array = NDArray[np.float32]


def made(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


ENCODER, DECODER, B_ENC, B_DEC, X = made(D, N), made(N, D), made(N), made(D), made(20, D)
PRE = X @ ENCODER + B_ENC
HOOK_Z = {"act_size": D, "dict_size": N, "act_name": "blocks.2.attn.hook_z", "model_name": "gelu-2l"}


class Layout(NamedTuple):
    """A file of weights, and what it is: its format, its latents of ``X``, its hook and its model."""

    format: str
    file: str
    weights: dict[str, Array]
    latents: Array
    hook: str
    model: str
    config: dict[str, Any] | None = None

    def write(self, folder: Path) -> Path:
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}, path)
        if self.config is not None:
            path.with_name(f"{path.stem}_cfg.json").write_text(json.dumps(self.config))
        return path


LAYOUTS = [
    Layout(
        "qwen_scope",
        f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}/layer5.sae.pt",
        {"W_enc": ENCODER.T, "W_dec": DECODER.T, "b_enc": B_ENC, "b_dec": B_DEC},
        np.where(np.sort(PRE, axis=1)[:, -K][:, None] <= PRE, np.maximum(PRE, 0), 0),
        hook="blocks.5.hook_resid_post",
        model="Qwen/Qwen3-1.7B-Base",
    ),
    Layout(
        "deepseek_r1",
        "DeepSeek-R1-Distill-Llama-8B-SAE-l37.pt",
        {"encoder.weight": ENCODER.T, "encoder.bias": B_ENC, "decoder.weight": DECODER.T, "decoder.bias": B_DEC},
        np.maximum(PRE, 0),
        hook="blocks.37.hook_resid_post",
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ),
    Layout(
        "hook_z",
        "attn_l2.pt",
        {"W_enc": ENCODER, "W_dec": DECODER, "b_enc": B_ENC, "b_dec": B_DEC},
        np.maximum((X - B_DEC) @ ENCODER + B_ENC, 0),
        hook="blocks.2.attn.hook_z",
        model="gelu-2l",
        config=HOOK_Z,
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.format)
def test_a_published_layout_is_read(layout: Layout, tmp_path: Path) -> None:
    path = layout.write(tmp_path)
    sae, info = checkpoints.load(path), checkpoints.inspect(path)
    code = sae.encode(torch.from_numpy(X))
    np.testing.assert_allclose(code.to_dense().numpy(), layout.latents, atol=1e-5)
    np.testing.assert_allclose(sae.decode(code).numpy(), layout.latents @ DECODER + B_DEC, atol=1e-5)
    assert (info.format, info.hook_in, info.model) == (layout.format, layout.hook, layout.model)


def test_a_configuration_of_another_width_is_refused(tmp_path: Path) -> None:
    path = LAYOUTS[-1]._replace(config=HOOK_Z | {"dict_size": N + 1}).write(tmp_path)
    with pytest.raises(SaebenchError, match="dict_size 25 in its configuration, but 24"):
        checkpoints.load(path)
