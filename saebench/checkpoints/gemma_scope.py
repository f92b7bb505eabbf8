"""Gemma Scope: ``params.npz`` (1) or ``params.safetensors`` (2), JumpReLU without input scaling."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from saebench.checkpoints.base import Adapter, Location, Sizes, read_safetensors, safetensors_header, take
from saebench.checkpoints.checked import check_archive
from saebench.errors import SaebenchError
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder

_LAYER = re.compile(r"layer_(\d+)")
_MODEL = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)")
_SITE = re.compile(r"gemma-scope-[\w-]*?-(res|mlp|att)\b")
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


class GemmaScope(Adapter):
    """``params.npz`` or ``params.safetensors`` with ``W_enc``, ``W_dec``, ``b_enc``, ``b_dec`` and ``threshold``."""

    name = "gemma_scope"
    looks_for = "params.npz or params.safetensors"

    def recognise(self, location: Location) -> bool:
        """By the name of the file."""
        return len(location.matching("params.npz", "params.safetensors")) == 1

    def weights_file(self, location: Location) -> str:
        """``params.npz`` or ``params.safetensors``."""
        return location.matching("params.npz", "params.safetensors")[0]

    def describe(self, location: Location) -> CheckpointInfo:
        """From the headers of the arrays; hook and model from the path of the released files."""
        shapes = self._shapes(location)
        if "w_enc" not in shapes or "w_dec" not in shapes:
            raise SaebenchError(f"{location.origin} lacks W_enc or W_dec; it has: {', '.join(sorted(shapes))}.")
        (d_in, n), d_out = shapes["w_enc"], shapes["w_dec"][1]
        path = _full_path(location, self.weights_file(location))
        layer, model, site = _LAYER.search(path), _MODEL.search(path), _SITE.search(path)
        hook = f"blocks.{layer[1]}.{_SITES[site[1]]}" if layer and site else None
        name = f"google/gemma-2-{model[1]}" + ("-it" if model[2] == "it" else "") if model else None
        return self.info(location, Sizes(d_in, n, d_out), {"name": "jumprelu"}, hook, model=name, prepend_bos=True)

    def load(self, location: Location) -> SparseAutoencoder:
        """The arrays unchanged; the input scale of embedding autoencoders is folded into the weights."""
        tensors = self._tensors(location)
        W_enc, W_dec = take(tensors, "w_enc", location), take(tensors, "w_dec", location)
        if "embedding" in PurePosixPath(_full_path(location, self.weights_file(location))).parts:
            scale = W_enc.shape[0] ** 0.5
            W_enc, W_dec = W_enc / scale, W_dec * scale
        return SparseAutoencoder(
            W_enc=W_enc,
            W_dec=W_dec,
            b_enc=take(tensors, "b_enc", location),
            b_dec=take(tensors, "b_dec", location),
            W_skip=tensors.get("affine_skip_connection"),
            activation=JumpReLU(take(tensors, "threshold", location)),
            info=self.describe(location),
        )

    def _shapes(self, location: Location) -> dict[str, tuple[int, ...]]:
        name = self.weights_file(location)
        if name.endswith(".safetensors"):
            return {key.lower(): shape for key, (shape, _) in safetensors_header(location, name).items()}
        return {key.lower(): shape for key, shape in _npz_shapes(location, name).items()}

    def _tensors(self, location: Location) -> dict[str, Tensor]:
        name = self.weights_file(location)
        if name.endswith(".safetensors"):
            return {key.lower(): tensor for key, tensor in read_safetensors(location, name).items()}
        check_archive(location.path(name), location.origin)
        try:
            _check_headers(location, name)
            with np.load(location.path(name), allow_pickle=False) as arrays:
                return {key.lower(): torch.from_numpy(np.ascontiguousarray(arrays[key])) for key in arrays.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise SaebenchError(f"{name} of {location.origin} cannot be read: {error}") from error


def _full_path(location: Location, name: str) -> str:
    """The file's path: the names of the released folders give model, site and layer."""
    root = None if location.root is None else location.root.resolve().as_posix()
    return "/".join(part for part in (location.repository, root, location.subfolder, name) if part)


def _check_headers(location: Location, name: str) -> None:
    """Raise ``ValueError`` where the header of an array claims more values than its file has bytes."""
    shapes = _npz_shapes(location, name)
    with zipfile.ZipFile(location.path(name)) as archive:
        for member in archive.infolist():
            shape = shapes[member.filename.removesuffix(".npy")]
            if any(each < 0 for each in shape) or math.prod(shape) > member.file_size:
                raise ValueError(
                    f"the header of {member.filename} claims the shape {shape}, but it has {member.file_size} bytes"
                )


def _npz_shapes(location: Location, name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an ``.npz`` file, from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(location.path(name)) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shapes[member.removesuffix(".npy")] = read(stream)[0]
    except Exception as error:  # zipfile and numpy's parser of headers raise many types on damaged files
        raise SaebenchError(f"{name} of {location.origin} cannot be read: {error}") from error
    return shapes
