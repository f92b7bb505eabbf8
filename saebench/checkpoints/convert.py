"""Writing autoencoders in other formats: SAELens's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saebench.checkpoints.native import save_native
from saebench.checkpoints.saelens import CONFIG, WEIGHTS
from saebench.errors import SaebenchError
from saebench.files import write_safetensors, write_text
from saebench.lm.hooks import parse_hook
from saebench.sae import Gated, InputScaling, JumpReLU, ReLU, SparseAutoencoder, TopK

FORMATS = ("saebench", "saelens")
_SCALINGS = {"none": "none", "layer_norm": "layer_norm", "constant_norm": "constant_norm_rescale"}


def convert(sae: SparseAutoencoder, folder: str | Path, format: str) -> Path:
    """Write ``sae`` in one of ``FORMATS``.

    Raises:
        SaebenchError: there is no such format, or it cannot hold this autoencoder.
    """
    if format == "saebench":
        return save_native(sae, folder)
    if format == "saelens":
        return save_saelens(sae, Path(folder))
    raise SaebenchError(f"Cannot write the format {format!r}; there are: {', '.join(FORMATS)}.")


def save_saelens(sae: SparseAutoencoder, folder: Path) -> Path:
    """Write SAELens's inference format (version 6): ``cfg.json`` and ``sae_weights.safetensors``.

    A scale of the data set is folded into the weights, which is exact.

    Raises:
        SaebenchError: the format does not support this activation function, input scaling or bias.
    """
    if sae.context is not None:
        raise SaebenchError("A temporal autoencoder cannot be written for SAELens; --format saebench can.")
    sae = _without_dataset_scale(sae)
    config = _config(sae)
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if isinstance(sae.activation, Gated):
        tensors |= {"b_gate": sae.b_enc, "r_mag": sae.activation.r_mag, "b_mag": sae.activation.b_mag}
    else:
        tensors["b_enc"] = sae.b_enc
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = sae.activation.threshold
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.T
    write_safetensors(tensors, folder, WEIGHTS)
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    return folder


def _config(sae: SparseAutoencoder) -> dict[str, Any]:
    info = sae.info
    transcodes = sae.W_skip is not None or info.hook_out not in (None, info.hook_in) or sae.d_in != sae.d_out
    architecture, extra = _architecture(sae, transcodes)
    if sae.scaling.kind not in _SCALINGS:
        raise SaebenchError(
            f"SAELens has no input scaling like {sae.scaling.kind}: this autoencoder cannot be written for it."
        )
    subtracts = sae.b_pre is not None
    if sae.b_pre is not None and (transcodes or not torch.equal(sae.b_pre, sae.b_dec)):
        raise SaebenchError("SAELens subtracts the decoder's bias or nothing before encoding; this autoencoder differs.")
    metadata = {
        "sae_lens_version": "6.0.0", "hook_name": _hook_name(info.hook_in), "model_name": info.model,
        "context_size": info.context, "prepend_bos": info.prepend_bos,
    }  # fmt: skip
    if transcodes:
        extra["d_out"] = sae.d_out
        metadata["hook_name_out"] = _hook_name(info.hook_out)
    return {
        "architecture": architecture, "d_in": sae.d_in, "d_sae": sae.n_latents, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": subtracts, "normalize_activations": _SCALINGS[sae.scaling.kind],
        "reshape_activations": "none", **extra, "metadata": metadata,
    }  # fmt: skip


def _hook_name(hook: str | None) -> str | None:
    """TransformerLens's name, which SAELens expects."""
    return None if hook is None else parse_hook(hook).name


def _architecture(sae: SparseAutoencoder, transcodes: bool) -> tuple[str, dict[str, Any]]:
    activation = sae.activation
    suffix = ("skip_transcoder" if sae.W_skip is not None else "transcoder") if transcodes else ""
    if isinstance(activation, ReLU):
        return suffix or "standard", {}
    if isinstance(activation, JumpReLU):
        return f"jumprelu_{suffix}" if suffix else "jumprelu", {}
    if not transcodes and isinstance(activation, Gated):
        return "gated", {}
    if not transcodes and isinstance(activation, TopK) and (activation.relu or activation.signed):
        extra = {"k": activation.k, "rescale_acts_by_decoder_norm": False}
        return "abstopk" if activation.signed else "topk", extra
    raise SaebenchError(
        f"SAELens has no {'transcoder' if transcodes else 'autoencoder'} with the activation {activation.describe()}: "
        "it cannot be written for it."
    )


def _without_dataset_scale(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The same function with one factor for every token folded into the weights."""
    if sae.scaling.kind != "dataset":
        return sae
    reads, writes = sae.scaling.input_scale, sae.scaling.output_scale
    b_pre = None if sae.b_pre is None else sae.b_pre / reads
    return replace(
        sae, W_enc=sae.W_enc * reads, W_dec=sae.W_dec / writes, b_dec=sae.b_dec / writes, b_pre=b_pre, scaling=InputScaling()
    )
