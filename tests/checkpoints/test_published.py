"""Published layouts without a package: small files in the layout, against formulas written here in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def saved(path: Path, **arrays: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key.replace("__", "."): torch.from_numpy(value.copy()) for key, value in arrays.items()}, path)
    return path


def agrees(path: Path, latents: Array, **info: Any) -> None:
    sae = checkpoints.load(path)
    code = sae.encode(torch.from_numpy(X))
    np.testing.assert_allclose(code.to_dense().numpy(), latents, atol=1e-5)
    np.testing.assert_allclose(sae.decode(code).numpy(), latents @ DECODER + B_DEC, atol=1e-5)
    assert {key: getattr(checkpoints.inspect(path), key) for key in info} == info


def test_qwen_scope(tmp_path: Path) -> None:
    pre = X @ ENCODER + B_ENC
    kept = np.where(pre >= np.sort(pre, axis=1)[:, -K][:, None], np.maximum(pre, 0), 0)
    path = tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}/layer5.sae.pt"
    saved(path, W_enc=ENCODER.T, W_dec=DECODER.T, b_enc=B_ENC, b_dec=B_DEC)
    agrees(path, kept, format="qwen_scope", hook_in="blocks.5.hook_resid_post", model="Qwen/Qwen3-1.7B-Base")


def test_deepseek_r1(tmp_path: Path) -> None:
    path = tmp_path / "DeepSeek-R1-Distill-Llama-8B-SAE-l37.pt"
    saved(path, encoder__weight=ENCODER.T, encoder__bias=B_ENC, decoder__weight=DECODER.T, decoder__bias=B_DEC)
    agrees(
        path,
        np.maximum(X @ ENCODER + B_ENC, 0),
        format="deepseek_r1",
        hook_in="blocks.37.hook_resid_post",
        model="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    )


def test_hook_z(tmp_path: Path) -> None:
    path = saved(tmp_path / "attn_l2.pt", W_enc=ENCODER, W_dec=DECODER, b_enc=B_ENC, b_dec=B_DEC)
    config = {"act_size": D, "dict_size": N, "act_name": "blocks.2.attn.hook_z", "model_name": "gelu-2l"}
    (tmp_path / "attn_l2_cfg.json").write_text(json.dumps(config))
    agrees(
        path, np.maximum((X - B_DEC) @ ENCODER + B_ENC, 0), format="hook_z", hook_in="blocks.2.attn.hook_z", model="gelu-2l"
    )
    (tmp_path / "attn_l2_cfg.json").write_text(json.dumps(config | {"dict_size": N + 1}))
    with pytest.raises(SaebenchError, match="dict_size 25 in its configuration, but 24"):
        checkpoints.load(path)
