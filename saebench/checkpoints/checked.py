"""What every checkpoint must fulfil, whatever its format: types of its fields, weights that fit them, intact archives."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saebench.errors import SaebenchError
from saebench.sae import AnyAutoencoder, CheckpointInfo, hook_width

WEIGHT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LARGEST_RATIO, ALWAYS_READ = 100, 256 << 20
"""Content over size of an archive, and the bytes of content up to which no ratio is refused: weights do not compress to a
hundredth, and reading such content through for its checksum would take minutes."""
LARGEST_SHARE = 0.8
"""Share of the machine's memory that an archive's content may take."""


def check_info(info: CheckpointInfo) -> CheckpointInfo:
    """A checkpoint's metadata, with numbers that JSON lacks turned into text.

    Raises:
        SaebenchError: a field is of the wrong type or out of range; the message names it.
    """
    for name in ("d_in", "d_out", "n_latents"):
        _whole(info, name, getattr(info, name))
    if info.context is not None:
        _whole(info, "context", info.context)
    for name in ("model", "hook_in", "hook_out", "architecture", "dtype", "scaling"):
        value = getattr(info, name)
        if not isinstance(value, str) and (value is not None or name in ("architecture", "scaling")):
            raise SaebenchError(f"{info.origin} gives {value!r} for {name}; a text is needed.")
    for name in ("activation", "training", "assumed"):
        if not isinstance(getattr(info, name), dict):
            raise SaebenchError(f"{info.origin} gives {getattr(info, name)!r} for {name}; an object is needed.")
    if info.prepend_bos is not None and not isinstance(info.prepend_bos, bool):
        raise SaebenchError(f"{info.origin} gives {info.prepend_bos!r} for prepend_bos; true or false is needed.")
    if "k" in info.activation:
        _whole(info, "k", info.activation["k"])
    for size in info.group_sizes or ():
        _whole(info, "group_sizes", size)
    return replace(info, training=finite_json(info.training), activation=finite_json(info.activation))


def _whole(info: CheckpointInfo, name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise SaebenchError(f"{info.origin} gives {value!r} for {name}; a positive whole number is needed.")


def check_weights(sae: AnyAutoencoder) -> None:
    """Check that weights are numbers of a type that autoencoders have, and as many as the metadata says.

    Raises:
        SaebenchError: they are not; the message names the tensor.
    """
    info = sae.info
    for name, tensor in sae.tensors():
        if tensor.dtype not in WEIGHT_TYPES:
            kinds = ", ".join(str(each).removeprefix("torch.") for each in WEIGHT_TYPES)
            found = str(tensor.dtype).removeprefix("torch.")
            raise SaebenchError(f"{name} of {info.origin} is of type {found}; saebench reads {kinds}: convert it first.")
    for name, stated, actual in (
        ("d_in", info.d_in, hook_width(sae)),
        ("d_out", info.d_out, sae.d_out),
        ("n_latents", info.n_latents, sae.n_latents),
    ):
        if stated != actual:
            raise SaebenchError(f"{info.origin} gives {stated:,} for {name}, but its weights have {actual:,}.")


def finite_json(data: Any) -> Any:
    """JSON data in which NaN and infinity are text, since JSON has no such numbers."""
    if isinstance(data, dict):
        return {str(key): finite_json(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite_json(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def check_archive(path: Path, origin: str) -> None:
    """Check a zip archive (``.pt``, ``.npz``) before anything of it is unpacked.

    Raises:
        SaebenchError: it declares more content than its size or the memory allows, or a checksum is wrong.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(each.file_size for each in archive.infolist())
            if declared > max(ALWAYS_READ, LARGEST_RATIO * size) or declared > LARGEST_SHARE * _memory():
                raise SaebenchError(
                    f"{path.name} of {origin} has {size:,} bytes and declares {declared:,}: this is refused as damaged or "
                    "larger than the memory."
                )
            damaged = archive.testzip()
    except (OSError, RuntimeError, NotImplementedError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SaebenchError(f"{path.name} of {origin} is a damaged archive: {error}.") from error
    if damaged is not None:
        raise SaebenchError(f"{path.name} of {origin} is damaged: the checksum of {damaged} is wrong.")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36
