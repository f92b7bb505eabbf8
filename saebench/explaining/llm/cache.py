"""Cache of a language model's answers on disk, by the hash of the question: a repeated question costs nothing.

Each entry is a file, written atomically. It holds the question, the answer's text and the endpoint's token counts; never
a key. A damaged entry counts as missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saebench.errors import SaebenchError
from saebench.files import cache_folder, write_text
from saebench.results import canonical_hash

VERSION = 1
LARGEST_ENTRY = 4 * 2**20


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Answer(_Entry):
    """An endpoint's answer.

    Attributes:
        text: of the first choice; empty where it has none.
        prompt_tokens: as counted by the endpoint, None where it gives no count; ``completion_tokens`` likewise.
        completion_tokens: see ``prompt_tokens``.
        finish_reason: as the endpoint calls it.
    """

    text: str
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)
    finish_reason: str | None = None


class Dialect(_Entry):
    """The features of the protocol that an endpoint supports, as found by its check.

    Attributes:
        answer_format: how an answer's form is requested: ``json_schema``, ``json_object`` or ``text`` (by the prompt alone).
        limit: name of the parameter that limits an answer's length.
        temperature: whether it accepts one; ``seed`` likewise.
        seed: see ``temperature``.
    """

    answer_format: str = "json_schema"
    limit: str = "max_tokens"
    temperature: bool = True
    seed: bool = True


class _Stored(_Entry):
    version: int
    question: dict[str, Any]
    answer: Answer


class _StoredDialect(_Entry):
    version: int
    endpoint: dict[str, Any]
    dialect: Dialect


_Kind = TypeVar("_Kind", _Stored, _StoredDialect)


class AnswerCache:
    """The folder of answers.

    Args:
        folder: its path; ``llm`` in saebench's cache folder by default. Created where it is missing.

    Raises:
        SaebenchError: it cannot be created.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder() / "llm"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaebenchError(f"The folder {self.folder} for answers cannot be created ({error.strerror}).") from error

    def get(self, question: dict[str, Any]) -> Answer | None:
        """The answer to exactly this question, if it is in the cache."""
        stored = _read(self._place(question), _Stored)
        return stored.answer if stored is not None and stored.question == question else None

    def put(self, question: dict[str, Any], answer: Answer) -> None:
        """Store an answer."""
        stored = _Stored(version=VERSION, question=question, answer=answer)
        write_text(self._place(question), stored.model_dump_json(indent=1) + "\n")

    def dialect(self, endpoint: dict[str, Any]) -> Dialect | None:
        """The endpoint's features, as found by an earlier run."""
        stored = _read(self._place({"endpoint": endpoint}), _StoredDialect)
        return stored.dialect if stored is not None else None

    def put_dialect(self, endpoint: dict[str, Any], dialect: Dialect) -> None:
        """Store the endpoint's features: they are part of every question, and so of its hash."""
        stored = _StoredDialect(version=VERSION, endpoint=endpoint, dialect=dialect)
        write_text(self._place({"endpoint": endpoint}), stored.model_dump_json(indent=1) + "\n")

    def _place(self, question: dict[str, Any]) -> Path:
        name = canonical_hash(question)
        return self.folder / name[:2] / f"{name}.json"


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        if path.stat().st_size > LARGEST_ENTRY:
            return None
        stored = kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, RecursionError):
        return None
    return stored if stored.version == VERSION else None
