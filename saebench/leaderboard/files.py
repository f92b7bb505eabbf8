"""Paths of leaderboard files and how they are read: their content is untrusted.

``leaderboards/<model>/<hook>/benchmark.toml`` states the conditions, ``<name>.json`` next to it is a submission, and
``imported/<name>.json`` a result of another suite. ``verified.json`` names the submissions that a maintainer reproduced.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from saebench.errors import SaebenchError
from saebench.parsing import parse_json

LARGEST_SUBMISSION = 4 * 2**20
NAME = re.compile(r"[a-z0-9](?:[._-]?[a-z0-9]+)*")
"""Names of submissions: lower-case letters and digits, with single dots, dashes and underscores between them."""
FOLDER = re.compile(r"[A-Za-z0-9](?:[._-]{0,2}[A-Za-z0-9]+)*")
LONGEST_NAME = 80
BENCHMARK = "benchmark.toml"
IMPORTED = "imported"
VERIFIED = "verified.json"
WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10))}


class Strict(BaseModel):
    """Base class of leaderboard files: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class BadFile(Exception):
    """A file is invalid; the message is a sentence that begins with 'it'."""


def is_name(text: str) -> bool:
    """Whether this is a valid name of a submission: a file of that name is safe on every system."""
    return len(text) <= LONGEST_NAME and NAME.fullmatch(text) is not None and text.partition(".")[0] not in WINDOWS_DEVICES


def is_folder_name(text: str) -> bool:
    """Whether this is a valid name of a model's or hook's folder."""
    return len(text) <= LONGEST_NAME and FOLDER.fullmatch(text) is not None


def folder_name(text: str) -> str:
    """A folder's name for a model or a hook: ``owner/model`` becomes ``owner--model``.

    Raises:
        SaebenchError: no valid name can be derived from it.
    """
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("/", "--"))
    made = re.sub(r"[._-]{2,}", "--", made).strip("._-")
    if not is_folder_name(made):
        raise SaebenchError(f"{text!r} cannot be the name of a folder: use a name of letters, digits, '.', '_' and '-'.")
    return made


def read_bytes(path: Path, largest: int = LARGEST_SUBMISSION) -> bytes:
    """A regular file's content; its size is checked before it is read, and links are not followed.

    Raises:
        BadFile: it is not a regular file, is too large or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise BadFile("it is a link or cannot be read") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BadFile("it is not a regular file")
    with os.fdopen(handle, "rb") as stream:
        if status.st_size > largest:
            raise BadFile(f"it has {status.st_size:,} bytes; at most {largest:,} are read")
        return stream.read(largest + 1)


def read_json(path: Path, largest: int = LARGEST_SUBMISSION) -> tuple[str, Any]:
    """``(text, data)`` of a JSON file without duplicate keys in which every number is finite.

    Raises:
        BadFile: it is not such a file.
    """
    try:
        text = read_bytes(path, largest).decode("utf-8")
        return text, parse_json(text, object_pairs_hook=no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadFile("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise BadFile(f"it is not JSON (line {error.lineno}: {error.msg})") from error
    except ValueError as error:
        raise BadFile(str(error)) from error


def in_words(error: ValidationError) -> list[str]:
    """The violations of the schema, each with its location."""
    return [
        f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors(include_input=False, include_url=False)
    ]


def board_folders(root: Path) -> Iterator[Path]:
    """The folders of all (model, hook) pairs, in order of their names.

    Raises:
        SaebenchError: the root does not exist.
    """
    if not root.is_dir():
        raise SaebenchError(f"There is no folder {root}: give the leaderboards' folder with --root.")
    for model in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        yield from sorted(path for path in model.iterdir() if path.is_dir() and not path.name.startswith("."))


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these pairs.

    Raises:
        ValueError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"it has the key {key[:60]!r} twice in one object")
            seen.add(key)
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not JSON: undefined values are null, with a reason")
