"""For scripts in peers' environments, so that all train on the same batches: what they are given, as in ``sys.argv[1]``."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file


def read_settings() -> tuple[dict[str, Any], torch.Tensor]:
    """``(settings, activations)``: the JSON object, and ``[tokens, d]`` from the file that it names."""
    settings = json.loads(sys.argv[1])
    return settings, load_file(settings["activations"])["activations"]


def batches(activations: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Batches ``[size, d]`` without end, shuffled by torch's global generator in every epoch."""
    while True:
        order = torch.randperm(activations.shape[0])
        for start in range(0, activations.shape[0] - size + 1, size):
            yield activations[order[start : start + size]]
