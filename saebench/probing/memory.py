"""The cache of a probing run on disk, with which an interrupted run resumes.

Each finished task of each autoencoder is one small JSON file, named by a hash of everything that determines its numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saebench.files import cache_folder, write_safetensors, write_text
from saebench.results import canonical_hash
from saebench.sae import Autoencoder, ForeignAutoencoder, SparseAutoencoder

VERSION = 1
"""Version of the cache; raised where the same key would mean other numbers."""

HASHED_AT_ONCE = 2**22


def cached_or_computed(key: dict[str, Any] | None, compute: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """``(data, whether it was read from the cache)``. Without a key nothing is cached."""
    if key is None:
        return compute(), False
    path = _folder() / f"{canonical_hash({'version': VERSION, **key})}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return data, True
    except (OSError, ValueError):
        pass  # absent or damaged: it is computed again
    data = compute()
    write_text(path, json.dumps(data, allow_nan=False))
    return json.loads(json.dumps(data)), False  # the same types whether it was computed or read


def tensors_cached_or_computed(
    folder: str, key: dict[str, Any] | None, compute: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], str | None]:
    """``(tensors, the hash of the key)``, from a safetensors file in the cache where there is one.

    Args:
        folder: below the cache folder's ``probing``.
        key: everything that determines the tensors; nothing is cached without one.
        compute: called where they are not in the cache.
    """
    if key is None:
        return compute(), None
    name = canonical_hash({"version": VERSION, **key})
    place = cache_folder() / "probing" / folder
    tensors = read_tensors(place / f"{name}.safetensors")
    if tensors is None:
        tensors = compute()
        write_safetensors(tensors, place, f"{name}.safetensors")
    return tensors, name


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file; None where it is absent, or truncated by a full disk: they are computed again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _folder() -> Path:
    return cache_folder() / "probing" / "results"


def fingerprint(sae: Autoencoder) -> str | None:
    """Hash of an autoencoder's weights in memory, computed in bounded memory; None where it has none.

    The checkpoint's own hash is not enough: the object may have been changed since it was loaded.
    """
    if isinstance(sae, SparseAutoencoder):
        named = [*sae.tensors()]
        words = f"{sae.activation.describe()}{sae.scaling}{'' if sae.context is None else sae.context.heads}"
    elif isinstance(sae, ForeignAutoencoder) and isinstance(sae.inner, nn.Module):
        named, words = list(sae.inner.state_dict().items()), type(sae.inner).__qualname__
    else:
        return None
    digest = hashlib.sha256(words.encode())
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        for part in _pieces(tensor.detach()):
            digest.update(part.cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.ndim == 0:
        return (tensor,)
    per_row = max(1, tensor.numel() // max(1, tensor.shape[0]))
    pieces: tuple[Tensor, ...] = tensor.split(max(1, HASHED_AT_ONCE // per_row))
    return pieces
