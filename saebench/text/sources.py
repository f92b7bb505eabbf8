"""Sources of text: files, data sets on the hub, and the documentation in Python's library."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.files import TIMEOUT_SECONDS, require_hub
from saebench.parsing import parse_json

PYTHON_DOCS = "python-docs"
TOKEN_IDS, MESSAGES = "input_ids", "messages"
"""Fields that are read where a row has no text: token ids, and turns of a chat."""

Document = str | list[int] | list[dict[str, Any]] | None
"""Text; token ids; the messages of a chat; or None for a row whose field is null."""


@dataclass(frozen=True)
class TextSource:
    """A text of several documents, read on demand.

    Attributes:
        name: as used in results; without local folders.
        revision: pins it where it can change.
        documents: starts reading; yields the documents.
    """

    name: str
    revision: str | None
    documents: Callable[[], Iterator[Document]]


def open_text(source: str, *, revision: str | None = None, field: str = "text") -> TextSource:
    """Find a text. Files are checked to exist and data sets to be reachable; nothing is read yet.

    Args:
        source: ``python-docs``, a path ending in ``.txt``, ``.jsonl``, ``.parquet`` or ``.arrow``, or a data set on the hub
            as ``owner/name`` or ``owner/name:config``.
        revision: of a data set on the hub.
        field: the column that holds the text, token ids or messages; where it is ``text`` and a row has none,
            ``input_ids`` or ``messages`` is read.

    Raises:
        SaebenchError: it does not exist, is not of a supported type, or has no revisions and one is given.
    """
    path = Path(source).expanduser()
    path_like = source.startswith((".", "/", "~")) or source.partition(":")[0].count("/") > 1 or path.suffix in _READERS
    local = source == PYTHON_DOCS or path.exists() or path_like
    if local and revision is not None:
        raise SaebenchError(f"{source} has no revisions, only data sets on the hub have: omit --revision.")
    if source == PYTHON_DOCS:
        return TextSource(PYTHON_DOCS, f"python-{platform.python_version()}", _python_docs)
    if path_like and not path.exists():
        raise SaebenchError(f"There is no file {source}.")
    if path.suffix in _READERS and path.is_file():
        reader = _READERS[path.suffix]
        return TextSource(path.name, None, lambda: reader(path, field))
    if local:
        raise SaebenchError(f"Cannot read {source} as text: give a .txt, .jsonl, .parquet or .arrow file.")
    require_hub(f"The data set {source}")
    commit = _commit(source, revision)
    return TextSource(source, commit, lambda: _hub(source, commit, field))


def _python_docs() -> Iterator[Document]:
    from pydoc_data import topics

    for _, document in sorted(topics.topics.items()):
        yield document


def _plain(path: Path, field: str) -> Iterator[Document]:
    with _utf8_expected(path):
        yield path.read_text(encoding="utf-8")


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    with _utf8_expected(path), path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                reason = getattr(error, "msg", str(error))
                raise SaebenchError(f"Line {number} of {path.name} is not JSON: {reason}.") from error
            yield _document(row, field, f"line {number} of {path.name}")


def _parquet(path: Path, field: str) -> Iterator[Document]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        columns = table.schema_arrow.names
        for batch in table.iter_batches(batch_size=256, columns=[field] if field in columns else columns):
            for row in batch.to_pylist():
                yield _document(row, field, path.name)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SaebenchError(f"{path.name} is not a readable Parquet file: {error}.") from error


def _arrow(path: Path, field: str) -> Iterator[Document]:
    """An Arrow file, of either of the two formats."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                batches: Any = pyarrow.ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                file = pyarrow.ipc.open_file(source)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            for batch in batches:
                batch.validate(full=True)  # offsets outside the file would end the process
                for row in batch.to_pylist():
                    yield _document(row, field, path.name)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise SaebenchError(f"{path.name} is not a readable Arrow file: {error}.") from error


def _commit(source: str, revision: str | None) -> str | None:
    """The commit that a revision of a data set stands for, the newest by default; results record it."""
    from huggingface_hub import HfApi

    with _hub_expected(source):
        return HfApi().dataset_info(source.partition(":")[0], revision=revision, timeout=TIMEOUT_SECONDS).sha


def _hub(source: str, commit: str | None, field: str) -> Iterator[Document]:
    import datasets

    name, _, config = source.partition(":")
    with _hub_expected(source):
        for row in datasets.load_dataset(name, config or None, split="train", streaming=True, revision=commit):
            yield _document(row, field, source)


_KINDS = {type(None): "null", list: "a list", str: "a text", bool: "true or false"}
"""What a line may hold instead of an object."""


def _document(row: Any, field: str, where: str) -> Document:
    """The document of a row: its field, or for ``text`` the first of the other fields that it has."""
    names = (field, TOKEN_IDS, MESSAGES) if field == "text" else (field,)
    name = next((each for each in names if isinstance(row, dict) and each in row), None)
    if name is not None:
        value = row[name]
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list) and all(type(each) is int for each in value):
            return value
        if isinstance(value, list) and all(isinstance(each, dict) for each in value):
            return value
    there = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else _KINDS.get(type(row), "a number")
    raise SaebenchError(
        f"There is no text, no token ids and no messages in the field {field!r} of {where}; it has: {there}. Name another "
        "with --text-field."
    )


@contextmanager
def _utf8_expected(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise SaebenchError(
            f"{path.name} is not UTF-8 text (byte {error.object[error.start]:#04x}): convert it first."
        ) from error
    except OSError as error:
        raise SaebenchError(f"{path.name} cannot be read: {error.strerror}.") from error


@contextmanager
def _hub_expected(source: str) -> Iterator[None]:
    try:
        yield
    except SaebenchError:
        raise
    except Exception as error:  # the libraries raise many types, all of which mean that the data are not available
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SaebenchError(f"The data set {source} could not be read: {reason}") from error


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _plain, ".jsonl": _json_lines, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip
