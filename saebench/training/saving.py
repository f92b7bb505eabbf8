"""Checkpoints of a run: the autoencoder, its average, and the state for resuming; each replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from saebench.checkpoints import save_native
from saebench.checkpoints.native import CONFIG, WEIGHTS, native_config, native_tensors
from saebench.errors import SaebenchError
from saebench.files import put_in_place, write_text
from saebench.sae import SparseAutoencoder
from saebench.training.config import TrainingConfig
from saebench.training.mesh import Mesh
from saebench.training.trainer import Trainer

STATE, AVERAGE, COPY = "state.pt", "average", "after-"
"""Names in a run's folder; ``COPY`` is followed by the tokens that a copy was trained on."""
WHOLE = ("b_dec", "b_pre")
"""Tensors that every shard holds completely."""


def save(trainer: Trainer, folder: Path, record: dict[str, Any]) -> None:
    """Write the autoencoder, its average, and the state. ``record``: the training record.

    All ranks of a mesh call this; together they write one file set, which is read without them.

    Raises:
        SaebenchError: the folder cannot be written; the last good checkpoint is kept.
    """
    for averaged, place in ((False, folder), (True, folder / AVERAGE)):
        entry = record | {"averaged": True} if averaged else record
        if trainer.mesh.shards == 1:
            if trainer.mesh.writes:
                save_native(trainer.sae(averaged), place, entry)
        elif trainer.mesh.replica == 0:
            _save_shards(trainer.sae(averaged), trainer.config.n, place, entry, trainer.mesh)
    write_state(trainer, folder)


def keep(trainer: Trainer, folder: Path, record: dict[str, Any]) -> None:
    """Write a copy of the autoencoder that later steps do not replace, named by the tokens it was trained on.

    Raises:
        SaebenchError: the run has several shards, or the folder cannot be written.
    """
    if trainer.mesh.shards > 1:
        raise SaebenchError("keep_tokens is for runs with one shard: the latents of this one are distributed.")
    if trainer.mesh.writes:
        save_native(trainer.sae(), folder / f"{COPY}{trainer.step * trainer.config.batch}", record)


def write_state(trainer: Trainer, folder: Path) -> None:
    """Write the state of this rank; in a sharded run each shard has its own file, named by its step."""
    mesh = trainer.mesh
    if mesh.replica == 0:
        _replace(folder / _state_name(mesh, trainer.step), lambda stream: torch.save(trainer.state(), stream))
    mesh.barrier()
    if mesh.replica == 0 and mesh.shards > 1:
        for earlier in folder.glob(_state_name(mesh, "*")):
            if earlier.name != _state_name(mesh, trainer.step):
                earlier.unlink(missing_ok=True)


def training_record(folder: Path) -> dict[str, Any]:
    """The training record of the checkpoint in a folder."""
    record: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["training"]
    return record


def is_finished(config: TrainingConfig, folder: Path) -> bool:
    """Whether a folder holds the finished run of these settings; others are compared, and refused, on resuming."""
    if not (folder / CONFIG).is_file():
        return False
    there = training_record(folder)
    return there.get("complete") is True and not config.differing(there.get("config", {}))


def check_unused(folder: Path) -> None:
    """Refuse a folder with the state of a run, for a run that does not resume.

    Raises:
        SaebenchError: there is one.
    """
    if any(folder.glob("state*.pt")):
        raise SaebenchError(f"{folder} holds a training run already: resume it with --resume, or choose another folder.")


def prepare_folder(trainer: Trainer, folder: Path, resume: bool) -> None:
    """Load the last state where a run is resumed.

    Raises:
        SaebenchError: there is a run already, its state cannot be read, or it had other settings or other shards.
    """
    if not resume:
        check_unused(folder)
    if not any(folder.glob("state*.pt")):
        return
    mine = folder / _state_name(trainer.mesh, _last_step(folder, trainer.mesh.shards))
    if not mine.exists():
        raise SaebenchError(f"The run in {folder} had another number of shards: resume it with the same number.")
    try:
        trainer.load_state(torch.load(mine, weights_only=True, map_location=trainer.device))
    except (RuntimeError, KeyError, ValueError) as error:
        raise SaebenchError(f"The state in {folder} cannot be read: {error}") from error


def _state_name(mesh: Mesh, step: int | str) -> str:
    return STATE if mesh.shards == 1 else f"state-{step}-{mesh.shard}-of-{mesh.shards}.pt"


def _last_step(folder: Path, shards: int) -> int:
    """The last step of which every shard wrote its state."""
    written: dict[int, int] = {}
    for path in folder.glob(f"state-*-of-{shards}.pt"):
        step = int(path.name.split("-")[1])
        written[step] = written.get(step, 0) + 1
    return max((step for step, count in written.items() if count == shards), default=-1)


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        put_in_place(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise SaebenchError(f"Cannot write {path.parent}: {error}. The last good checkpoint is kept.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _save_shards(sae: SparseAutoencoder, n: int, folder: Path, record: dict[str, Any], mesh: Mesh) -> None:
    """Every shard writes its rows into one file, whose header the first one wrote."""
    tensors = native_tensors(sae)
    header, starts, size = _layout(tensors, n)
    temporary = folder / f".{WEIGHTS}.part"
    if mesh.shard == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(header)
            stream.truncate(len(header) + size)
    mesh.barrier_of_shards()
    with temporary.open("r+b") as stream:
        for name, tensor in tensors.items():
            if name in WHOLE and mesh.shard:
                continue
            first = 0 if name in WHOLE else mesh.latents(n).start
            row_bytes = tensor[0].numel() * tensor.element_size()
            stream.seek(len(header) + starts[name] + first * row_bytes)
            stream.write(tensor.detach().cpu().contiguous().numpy().data.cast("B"))
        stream.flush()
        os.fsync(stream.fileno())
    mesh.barrier_of_shards()
    if mesh.shard == 0:
        put_in_place(temporary, folder / WEIGHTS)
        whole = replace(sae, info=replace(sae.info, n_latents=n))
        write_text(folder / CONFIG, native_config(whole, record))
    mesh.barrier_of_shards()


def _layout(tensors: dict[str, Tensor], n: int) -> tuple[bytes, dict[str, int], int]:
    """``(header, where each tensor starts, size)`` of a safetensors file whose sliced tensors have ``n`` rows."""
    entries: dict[str, Any] = {}
    starts: dict[str, int] = {}
    offset = 0
    for name, tensor in tensors.items():
        shape = list(tensor.shape) if name in WHOLE else [n, *tensor.shape[1:]]
        stop = offset + torch.Size(shape).numel() * tensor.element_size()
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, stop]}
        starts[name], offset = offset, stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts, offset
