"""SAELens's temporal autoencoders: ``attn_layers.<i>`` beside the usual weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.checkpoints.base import Location, integer, take
from saebench.errors import SaebenchError
from saebench.sae import (
    AttentionLayer,
    CheckpointInfo,
    InputScaling,
    ReLU,
    SparseAutoencoder,
    TemporalContext,
    TopK,
)

_NAMES = {"key": "k_ctx", "query": "q_target", "value": "v_ctx", "output": "c_proj"}


def temporal_activation(config: dict[str, Any], location: Location) -> ReLU | TopK:
    """How latents encode what was not predicted.

    Raises:
        SaebenchError: the type of selection is not known.
    """
    kind, k = config.get("sae_diff_type", "topk"), config.get("kval_topk")
    if kind not in ("relu", "topk"):
        raise SaebenchError(f"{location.origin} gives {kind!r} for sae_diff_type; saebench reads relu and topk.")
    return ReLU() if kind == "relu" or k is None else TopK(integer(k, "kval_topk", location))


def load_temporal(
    config: dict[str, Any], tensors: dict[str, Tensor], scaling: InputScaling, info: CheckpointInfo, location: Location
) -> SparseAutoencoder:
    """The autoencoder of ``[activation, prediction]``, with what predicts.

    SAELens encodes ``topk(relu((x - b_dec - prediction) @ W_enc / (4 d)))`` and decodes it together with the prediction.

    Raises:
        SaebenchError: a weight is missing or of the wrong shape, or a setting is not known.
    """
    W_dec, bias = take(tensors, "W_dec", location), take(tensors, "b_dec", location)
    tied, subtract = bool(config.get("tied_weights", True)), bool(config.get("apply_b_dec_to_input", True))
    n, d = W_dec.shape
    W_enc = (W_dec.T if tied else take(tensors, "W_enc", location)) / (4 * d)
    layers = []
    for number in range(integer(config.get("n_attn_layers", 1), "n_attn_layers", location)):
        weights = {}
        for name, theirs in _NAMES.items():
            weights[name] = take(tensors, f"attn_layers.{number}.{theirs}.weight", location)
            weights[f"{name}_bias"] = take(tensors, f"attn_layers.{number}.{theirs}.bias", location)
        layers.append(AttentionLayer(**weights))
    heads = integer(config.get("n_heads", 8), "n_heads", location)
    context = TemporalContext(W_enc, W_dec, bias if subtract else None, scaling, tuple(layers), heads)
    return SparseAutoencoder(
        W_enc=torch.cat([W_enc, -W_enc]),
        W_dec=W_dec,
        b_enc=W_dec.new_zeros(n),
        b_dec=bias if subtract or not tied else torch.zeros_like(bias),
        b_pre=torch.cat([bias, torch.zeros_like(bias)]) if subtract else None,
        W_skip=torch.cat([W_dec.new_zeros(d, d), torch.eye(d, dtype=W_dec.dtype)]),
        activation=temporal_activation(config, location),
        scaling=scaling,
        context=context,
        info=info,
    )
