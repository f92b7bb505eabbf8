"""Definitions of tasks, probing protocols and explainers: data that a maintainer edits without touching code."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from saebench.errors import SaebenchError
from saebench.parsing import parse_toml

KINDS = ("tasks", "tasks/classes", "tasks/unlearning", "probes", "explain")

Form = TypeVar("Form", bound=BaseModel)


@cache
def definition_folder(kind: str) -> Path:
    """The folder of a kind, one of ``KINDS``: of the checkout, else the copy in the wheel."""
    if kind not in KINDS:
        raise ValueError(f"there are definitions of {', '.join(KINDS)}, not of {kind}")
    package = Path(__file__).resolve().parent
    carried = package / "_definitions" / kind
    return carried if carried.is_dir() else package.parent / kind


def definition_names(kind: str) -> list[str]:
    """The names of the package's definitions of a kind."""
    return sorted(path.stem for path in definition_folder(kind).glob("*.toml"))


def own_definitions(kind: str, data_dir: Path | None) -> dict[str, Path]:
    """Files of the user's own definitions: those in the folder ``kind`` below a data folder, by name.

    Raises:
        SaebenchError: one has the name of a definition of the package.
    """
    if data_dir is None or (data_dir / kind).resolve() == definition_folder(kind).resolve():
        return {}
    found = {path.stem: path for path in sorted((data_dir / kind).glob("*.toml"))}
    taken = sorted(found.keys() & set(definition_names(kind)))
    if taken:
        what = "task" if kind == "tasks" else "set"
        raise SaebenchError(f"{kind}/{taken[0]}.toml in the data folder has the name of a {what} of saebench: rename it.")
    return found


def definition_file(kind: str, name: str) -> Path:
    """The file of a definition.

    Raises:
        SaebenchError: there is no such definition (the message lists those there are).
    """
    path = definition_folder(kind) / f"{name}.toml"
    if Path(name).name != name or "\0" in name or not path.is_file():
        known = ", ".join(definition_names(kind))
        raise SaebenchError(f"There is no definition {name!r} in {kind}; there are: {known or 'none'}.")
    return path


def load_definition(kind: str, name: str) -> dict[str, Any]:
    """A definition's content.

    Raises:
        SaebenchError: there is no such definition, or it is not TOML.
    """
    path = definition_file(kind, name)
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SaebenchError(f"The definition {kind}/{name}.toml is not TOML: {error}.") from error


def read_definition(form: type[Form], kind: str, name: str) -> Form:
    """A definition's content, checked strictly.

    Args:
        form: its schema; a field ``sha256`` is the hash of the file.

    Raises:
        SaebenchError: there is no such definition, or it is invalid.
    """
    more = {"sha256": definition_hash(kind, name)} if "sha256" in form.model_fields else {}
    try:
        return form(**load_definition(kind, name), **more)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SaebenchError(f"{kind}/{name}.toml is invalid: {where}: {first['msg']}.") from error


def definition_hash(kind: str, name: str) -> str:
    """SHA-256 of a definition's file, for results."""
    return hashlib.sha256(definition_file(kind, name).read_bytes()).hexdigest()
