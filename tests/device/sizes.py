"""What is measured at full size on a GPU, and in small on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Attributes:
    device: where everything runs; ``dtype``: of the language model.
    latents: of the kernels' tables; ``tokens``, ``k``, ``width``: of their codes.
    model: changes to the shape of Gemma 2 2B; ``layer``: where the autoencoders read.
    sae_latents: of the evaluated autoencoders; ``together``: how many in one call; ``sae_k``: active latents.
    text: ``(rows, context)`` that are evaluated, ``batch`` rows at once.
    step: ``(latents, width, tokens)`` of a training step; ``steps``: how many are timed.
    suite: changes to the settings of the standard suite.
    """

    device: str
    dtype: str
    latents: tuple[int, ...]
    tokens: int
    k: int
    width: int
    model: dict[str, Any]
    layer: int
    sae_latents: tuple[int, ...]
    together: tuple[int, ...]
    sae_k: int
    text: tuple[int, int]
    batch: int
    step: tuple[int, int, int]
    steps: int
    suite: dict[str, Any] = field(default_factory=dict)


FULL = Sizes(
    device="cuda",
    dtype="bfloat16",
    latents=(16_384, 131_072, 1_000_000),
    tokens=4096,
    k=64,
    width=768,
    model={},
    layer=12,
    sae_latents=(16_384, 65_536),
    together=(1, 8),
    sae_k=64,
    text=(128, 256),
    batch=16,
    step=(131_072, 2304, 4096),
    steps=10,
)
TINY = Sizes(
    device="cpu",
    dtype="float32",
    latents=(64, 500),
    tokens=20,
    k=4,
    width=48,
    model={
        "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 256, "query_pre_attn_scalar": 16, "sliding_window": 16,
    },
    layer=1,
    sae_latents=(64,),
    together=(1, 2),
    sae_k=4,
    text=(6, 16),
    batch=2,
    step=(128, 32, 64),
    steps=2,
    suite={"tokens": 128, "context": 16, "evaluators": ["reconstruction", "downstream", "dictionary"], "options": {}},
)  # fmt: skip
