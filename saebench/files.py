"""Paths of files and how they are written: the cache folder, atomic writing, the Hugging Face hub."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from saebench.errors import SaebenchError

if TYPE_CHECKING:
    from torch import Tensor

_UMASK = os.umask(0)
os.umask(_UMASK)  # it can only be read by setting it
TIMEOUT_SECONDS = 5.0


@functools.cache
def hub_reachable() -> bool:
    """Whether a connection to the hub can be opened. Checked once per process; False at once under ``HF_HUB_OFFLINE=1``."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    from huggingface_hub import constants

    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=TIMEOUT_SECONDS).close()
    except OSError:
        return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))  # a proxy may reach it
    return True


def require_hub(what: str) -> None:
    """Raise ``SaebenchError`` where the hub cannot be reached; ``what`` names the requested item."""
    if not hub_reachable():
        raise SaebenchError(
            f"{what} is on the Hugging Face hub, which cannot be reached from here: give a local path instead, "
            "or check the network and HF_HUB_OFFLINE."
        )


def cache_folder() -> Path:
    """``$SAEBENCH_CACHE``, else ``saebench`` in the user's cache folder. Created where it is missing.

    Raises:
        SaebenchError: it cannot be created.
    """
    given = os.environ.get("SAEBENCH_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saebench"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaebenchError(
            f"The cache folder {base} cannot be created ({error.strerror}): set another in SAEBENCH_CACHE."
        ) from error
    return base


def put_in_place(temporary: Path, path: Path) -> None:
    """Move a finished file to its path, atomically, with the mode of any new file (temporary ones are often private)."""
    os.chmod(temporary, 0o666 & ~_UMASK)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        SaebenchError: it cannot be written.
    """
    check_writable(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        put_in_place(Path(temporary), path)
    except OSError as error:
        raise SaebenchError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise ``SaebenchError`` where a file cannot be written at ``path``; creates missing folders."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise SaebenchError(f"Cannot write {path}: {error.strerror}.") from error
    if path.is_dir():
        raise SaebenchError(f"Cannot write {path}: it is a folder; give a file.")


def write_safetensors(tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    """Write tensors atomically as ``folder/name``; tensors that share memory are stored separately.

    Raises:
        SaebenchError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    places: set[int] = set()
    for key, tensor in tensors.items():
        stored[key] = tensor.detach().cpu().contiguous()
        if stored[key].untyped_storage().data_ptr() in places:
            stored[key] = stored[key].clone()  # the format has no place for tensors that share memory
        places.add(stored[key].untyped_storage().data_ptr())
    temporary = folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        put_in_place(temporary, folder / name)
    except (OSError, SafetensorError) as error:  # a full disk is one or the other
        raise SaebenchError(
            f"Cannot write the checkpoint {folder}: {(str(error).splitlines() or [type(error).__name__])[0]}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
