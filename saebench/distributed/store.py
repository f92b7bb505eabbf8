"""Where results and finished units are kept: a local folder, or any address that fsspec can open (s3://, gs://)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Protocol

from saebench.errors import SaebenchError
from saebench.files import check_writable, write_bytes


class Store(Protocol):
    """Files by name. Each is written atomically: a reader sees all of it or none."""

    def read(self, name: str) -> bytes | None:
        """The content; None where there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            SaebenchError: it cannot be written.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


class NoStore:
    """Keeps nothing, for work that has no shards."""

    def read(self, name: str) -> bytes | None:
        """None."""
        return None

    def write(self, name: str, content: bytes) -> None:
        """Nothing."""

    def remove(self, name: str) -> None:
        """Nothing."""


def open_store(address: str) -> Store:
    """The store at a folder's path or an fsspec address.

    Raises:
        SaebenchError: it cannot be written to, or fsspec does not know the protocol.
    """
    return _Remote(address) if "://" in address else _Folder(Path(address))


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        check_writable(folder / "result.json")

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self._folder / name, content)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class _Remote:
    """An fsspec address. Files are written under another name and moved, which object stores do as a copy."""

    def __init__(self, address: str) -> None:
        import fsspec

        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:  # protocols raise anything, missing packages and refused access among it
            raise SaebenchError(f"Cannot open {address}: {_line(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        temporary = f"{self._path(name)}.{uuid.uuid4().hex}.part"
        try:
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(temporary, content)
            self._files.mv(temporary, self._path(name))
        except Exception as error:
            raise SaebenchError(f"Cannot write {self._path(name)}: {_line(error)}") from error

    def remove(self, name: str) -> None:
        try:
            self._files.rm(self._path(name))
        except FileNotFoundError:
            return


def _line(error: Any) -> str:
    return f"{(str(error).splitlines() or [type(error).__name__])[0].rstrip('.')}."
