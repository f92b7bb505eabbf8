"""Records of autoencoder, model, text and environment: the parts of a result that make it reproducible."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saebench.lm import Cut, LanguageModel
from saebench.results import CorpusRecord, Environment, ModelRecord, SaeRecord
from saebench.sae import Autoencoder, ForeignAutoencoder, SparseAutoencoder, hook_width
from saebench.text.corpus import TokenCorpus
from saebench.version import __version__

LIBRARIES = ("torch", "transformers", "transformer-lens", "numpy", "safetensors", "scikit-learn", "datasets")


def portable_name(origin: str) -> str:
    """A local path without the folders above it, also of another machine; other names unchanged."""
    path = Path(origin).expanduser()
    if path.exists():
        path = path.resolve()
    elif not path.is_absolute():
        return origin
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def sae_record(sae: Autoencoder, cut: Cut | None) -> SaeRecord:
    """The autoencoder's record; without a language model (``cut``) its hooks are those of the checkpoint."""
    info = sae.info
    return SaeRecord(
        origin=portable_name(info.origin),
        format=info.format,
        architecture=info.architecture,
        weights_sha256=info.weights_sha256 or _hash_tensors(sae),
        d_in=hook_width(sae),
        d_out=sae.d_out,
        n_latents=sae.n_latents,
        activation=info.activation if not isinstance(sae, SparseAutoencoder) else sae.activation.describe(),
        scaling=info.scaling,
        hook_in=cut.hook_in.name if cut is not None else info.hook_in or "unknown",
        hook_out=cut.hook_out.name if cut is not None else info.hook_out or info.hook_in or "unknown",
        training=_portable_training(info.training),
        assumed=info.assumed,
    )


def _portable_training(training: dict[str, Any]) -> dict[str, Any]:
    """A training record without folders of the machine on which it was trained."""
    config = training.get("config")
    if not isinstance(config, dict):
        return training
    names = {name: portable_name(config[name]) for name in ("corpus", "model") if isinstance(config.get(name), str)}
    return training | {"config": config | names}


def model_record(model: LanguageModel) -> ModelRecord:
    """The language model's record."""
    return ModelRecord(
        name=portable_name(model.name),
        revision=model.revision,
        weights_sha256=model.weights_sha256,
        dtype=str(model.dtype).removeprefix("torch."),
        n_parameters=model.n_parameters,
    )


def corpus_record(corpus: TokenCorpus) -> CorpusRecord:
    """The text's record."""
    return CorpusRecord(
        name=corpus.name,
        revision=corpus.revision,
        sha256=corpus.sha256,
        rows=corpus.tokens.shape[0],
        context=corpus.context,
        tokens=corpus.tokens.numel(),
        tokens_counted=corpus.tokens_counted,
        tokens_requested=corpus.tokens_requested,
        tokens_dropped=corpus.tokens_dropped,
        bos=corpus.bos,
        separator=corpus.separator,
        shuffle_seed=corpus.shuffle_seed,
        excluded=corpus.rule,
        documents=corpus.documents,
        documents_null=corpus.documents_null,
    )


def environment(*devices: torch.device) -> Environment:
    """The software of this process, and the hardware that a model is on."""
    names = Counter(torch.cuda.get_device_name(each) if each.type == "cuda" else str(each) for each in devices)
    return Environment(
        saebench=__version__,
        commit=_own_commit(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device=" + ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items()),
        threads=torch.get_num_threads(),
        libraries={name: found for name in LIBRARIES if (found := _version(name)) is not None},
    )


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _own_commit() -> str | None:
    """The commit of the checkout that saebench itself runs from; never that of the working directory."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _hash_tensors(sae: Autoencoder) -> str | None:
    """Hash of an autoencoder in memory: of names, shapes and values; None where it has no weights."""
    if isinstance(sae, SparseAutoencoder):
        named = list(sae.tensors())
    elif isinstance(sae, ForeignAutoencoder) and isinstance(sae.inner, nn.Module):
        named = list(sae.inner.state_dict().items())
    else:
        return None
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
