"""Where text comes from: files, data sets on the hub, and the documentation that Python carries."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.hub import require_hub

PYTHON_DOCS = "python-docs"


@dataclass(frozen=True)
class TextSource:
    """A text of several documents, read as it is needed.

    Attributes:
        name: under which it stands in results; no folders of this machine.
        revision: what pins it, where it can change.
        documents: starts reading; gives one string a document.
    """

    name: str
    revision: str | None
    documents: Callable[[], Iterator[str]]


def open_text(source: str, *, revision: str | None = None, field: str = "text") -> TextSource:
    """Find a text. Files are checked to exist and data sets to be reachable; nothing is read yet.

    Args:
        source: ``python-docs``, a path ending in ``.txt``, ``.jsonl`` or ``.parquet``, or a data set on the hub as
            ``owner/name`` or ``owner/name:config``.
        revision: of a data set on the hub.
        field: the column that holds the text.

    Raises:
        SaebenchError: it is not there, or not of a kind that can be read.
    """
    if source == PYTHON_DOCS:
        return TextSource(PYTHON_DOCS, f"python-{platform.python_version()}", _python_docs)
    path = Path(source).expanduser()
    readers: dict[str, Callable[[Path, str], Iterator[str]]] = {".txt": _plain, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix in readers:
        if not path.is_file():
            raise SaebenchError(f"There is no file {source}.")
        reader = readers[path.suffix]
        return TextSource(path.name, None, lambda: reader(path, field))
    if path.exists() or source.startswith((".", "/", "~")):
        raise SaebenchError(f"Cannot read {source} as text: give a .txt, .jsonl or .parquet file.")
    require_hub(f"The data set {source}")
    return TextSource(source, revision, lambda: _hub(source, revision, field))


def _python_docs() -> Iterator[str]:
    from pydoc_data import topics

    for _, document in sorted(topics.topics.items()):
        yield document


def _plain(path: Path, field: str) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SaebenchError(f"{path.name} is not UTF-8 text (byte {error.start}): convert it first.") from error


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SaebenchError(f"Line {number} of {path.name} is not JSON: {error.msg}.") from error
            yield _text_of(row, field, f"line {number} of {path.name}")


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise SaebenchError(f"{path.name} is not a readable Parquet file: {error}.") from error
    for batch in table.iter_batches(batch_size=256):
        for row in batch.to_pylist():
            yield _text_of(row, field, path.name)


def _hub(source: str, revision: str | None, field: str) -> Iterator[str]:
    import datasets

    name, _, config = source.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split="train", streaming=True, revision=revision)
    except Exception as error:  # the library raises many kinds, all meaning that the data cannot be had
        raise SaebenchError(f"The data set {source} could not be opened: {str(error).splitlines()[0]}") from error
    for row in rows:
        yield _text_of(row, field, source)


def _text_of(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        there = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise SaebenchError(f"There is no text in the field {field!r} of {where}; it has: {there}.")
    text: str = row[field]
    return text
