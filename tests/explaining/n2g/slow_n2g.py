"""Neuron2Graph one latent, one example and one variant at a time: the whole model runs each time, and codes are dense.

A plain reading of the protocol, sharing nothing with the package but the model and the autoencoder's weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.lm import LanguageModel
from saebench.sae import JumpReLU, ReLU, SparseAutoencoder, TopK

Pattern = tuple[tuple[int | str, ...], float]
"""A path as it is read: tokens, ``*`` for any, ``^`` in front for the start; and the value."""


class SlowModel:
    """The latent's activations at every position of a text, from a hook on the model's own block."""

    def __init__(self, model: LanguageModel, layer: int, sae: SparseAutoencoder, bos: int | None) -> None:
        self.model, self.layer, self.sae, self.bos = model, layer, sae, bos
        self.calls = 0

    def __call__(self, tokens: list[int], latent: int) -> list[float]:
        self.calls += 1
        text = torch.tensor([tokens if self.bos is None else [self.bos, *tokens]])
        seen: dict[str, Tensor] = {}

        def keep(module: Any, inputs: Any, output: Any) -> None:
            seen["residual"] = output

        handle = self.model.bridge.blocks[self.layer].register_forward_hook(keep)
        self.model.logits(text)
        handle.remove()
        values = dense_code(self.sae, seen["residual"][0].float())[:, latent].tolist()
        return values if self.bos is None else values[1:]


def dense_code(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    if sae.scaling.kind == "layer_norm":
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + sae.scaling.epsilon)
    if sae.b_pre is not None:
        x = x - sae.b_pre
    pre = x @ sae.W_enc + sae.b_enc
    if isinstance(sae.activation, TopK):
        kth = pre.topk(sae.activation.k, dim=-1).values[:, -1:]
        return pre.relu() * (pre >= kth)
    if isinstance(sae.activation, JumpReLU):
        return pre.relu() * (pre > sae.activation.threshold)
    assert isinstance(sae.activation, ReLU)
    return pre.relu()


def slow_trie(
    model: Any, latent: int, examples: list[tuple[list[int], float]], padding: int, neighbours: dict[int, list[int]]
) -> dict[tuple[int | str, ...], float]:
    """The paths of one latent's trie; ``examples`` are texts up to the activation, and the activation."""
    paths: dict[tuple[int | str, ...], float] = {}
    substituted: list[Pattern] = []
    for tokens, activation in examples:
        found, value = tokens, activation
        for start in range(len(tokens) - 1, -1, -1):
            last = model(tokens[start:], latent)[-1]
            if last / activation >= 0.5:
                found, value = tokens[start:], last
                break
        can_pad = model([padding, *found], latent)[-1] / activation >= 0.5
        mark = () if can_pad else ("^",)
        pattern: list[int | str] = []
        for place, token in enumerate(found):
            variant = [*found[:place], padding, *found[place + 1 :]]
            saliency = 1 - model(variant, latent)[-1] / value
            pattern.append("*" if saliency < 0.5 else token)
        paths[(*mark, *pattern)] = value
        for place, token in enumerate(pattern):
            if token == "*":
                continue
            for other in neighbours.get(int(token), []):
                variant = [*found[:place], other, *found[place + 1 :]]
                last = model(variant, latent)[-1]
                if last / value >= 0.5:
                    substituted.append(((*mark, *pattern[:place], other, *pattern[place + 1 :]), last))
    for path, value in substituted:
        paths.setdefault(path, value)
    return paths


def slow_predict(paths: dict[tuple[int | str, ...], float], tokens: list[int]) -> list[float]:
    """The simulated activation at every position, by a search in nested dictionaries."""
    root: dict[Any, Any] = {}
    for path, value in paths.items():
        node = root
        for key in reversed(path):
            node = node.setdefault(key, {})
        node["value"] = value
    found = []
    for position in range(len(tokens)):
        node, value = root, 0.0
        for place in range(position, -1, -1):
            key = tokens[place] if tokens[place] in node else "*"
            if key not in node:
                break
            node = node[key]
            if "value" in node:
                value = node["value"]
                break
            if place == 0 and "^" in node:
                value = node["^"]["value"]
        found.append(value)
    return found
