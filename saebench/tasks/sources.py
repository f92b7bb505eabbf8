"""Where a task's rows come from: the hub, a folder of files, the installed package ``sae-probes``, in that order."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.files import TIMEOUT_SECONDS, hub_reachable
from saebench.parsing import parse_json
from saebench.tasks.definition import SOURCES, HubPart, PackagePart, Sourced

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows of a task's data.

    Attributes:
        source: ``hub``, ``local`` or ``sae_probes``.
        described: what was read, with the hub's commit; no local folders.
        rows: column to value.
        tried: why the sources before this one could not be used.
    """

    source: str
    described: str
    rows: list[Row]
    tried: tuple[str, ...] = field(default=())


def availability(task: Sourced, data_dir: Path | None) -> dict[str, str]:
    """For each source: an empty string where it seems to be available, else why it is not. Nothing is read."""
    return {source: _missing(task, source, data_dir) for source in SOURCES}


def load_rows(task: Sourced, data_dir: Path | None) -> Rows:
    """Read the rows of a task from the first source that has them.

    Raises:
        SaebenchError: no source has them; the message says what was tried, and what to do.
    """
    tried: list[str] = []
    for source, reason in availability(task, data_dir).items():
        if reason:
            tried.append(reason)
            continue
        try:
            described, rows = _READERS[source](task, data_dir)
        except SaebenchError as error:
            tried.append(str(error).rstrip("."))
            continue
        if rows:
            return Rows(source, described, rows, tuple(tried))
        tried.append(f"{described} has no rows")
    advice = "make the hub reachable, give a folder with the data with --data-dir, or install sae-probes"
    raise SaebenchError(f"The data of the task {task.name} is not available ({'; '.join(tried)}): {advice}.")


def _missing(task: Sourced, source: str, data_dir: Path | None) -> str:
    if not getattr(task, source):
        return {"hub": "it is not on the hub", "local": "it has no local form", "sae_probes": "sae-probes does not have it"}[
            source
        ]
    if source == "hub":
        names = ", ".join(dict.fromkeys(part.dataset for part in task.hub))
        return "" if hub_reachable() else f"the hub, for {names}, cannot be reached"
    if source == "local":
        if data_dir is None:
            return f"no data folder is given, for {task.local[0]}"
        absent = [name for name in task.local if not inside(data_dir, name).is_file()]
        return f"the data folder lacks {', '.join(absent)}" if absent else ""
    folder = package_folder()
    if folder is None:
        return "sae-probes is not installed"
    absent = [part.file for part in task.sae_probes if not _package_file(folder, part).is_file()]
    return f"the installed sae-probes lacks {', '.join(absent)}" if absent else ""


def inside(folder: Path, name: str) -> Path:
    """A file below a folder.

    Raises:
        SaebenchError: the path leaves the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SaebenchError(f"The file {name} is outside the data folder.")
    return path


def package_folder() -> Path | None:
    """The data of ``sae-probes``, found without importing it (it needs libraries of other versions)."""
    found = importlib.util.find_spec("sae_probes")
    places = list(found.submodule_search_locations or []) if found else []
    folder = Path(places[0]) / "data" / "cleaned_data" if places else None
    return folder if folder is not None and folder.is_dir() else None


def _package_file(folder: Path, part: PackagePart) -> Path:
    return inside(folder, f"{part.file}.csv.zst")


def _read_hub(task: Sourced, data_dir: Path | None) -> tuple[str, list[Row]]:
    rows, described = [], []
    for part in task.hub:
        commit, found = _hub_part(part)
        described.append(f"{part.dataset}{f':{part.config}' if part.config else ''}@{commit}")
        rows += [_extended(row, part) for row in found]
    return f"hub {', '.join(dict.fromkeys(described))}", rows


def _hub_part(part: HubPart) -> tuple[str, list[Row]]:
    """``(commit, rows)``. No code of a data set is run: where one has loading code, its task names the hub's Parquet
    branch."""
    import datasets
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(part.dataset, revision=part.revision, timeout=TIMEOUT_SECONDS).sha
        options = {"data_dir": part.folder} if part.folder else {}
        stream = datasets.load_dataset(
            part.dataset, part.config or None, split=part.split, streaming=True, revision=commit, **options
        )
        return str(commit), [dict(row) for _, row in zip(range(part.most_rows), stream, strict=False)]
    except Exception as error:  # the libraries raise many types, all of which mean that the data are not available
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SaebenchError(f"the hub's {part.dataset} could not be read ({reason})") from error


def _extended(row: Row, part: HubPart) -> Row:
    return row | {new: lookup(row, old) for new, old in part.columns.items()} | part.constants


def lookup(row: Row, name: str) -> Any:
    """A column, or with ``a.b`` a field of one.

    Raises:
        SaebenchError: it does not exist.
    """
    value: Any = row
    if name in row:
        return row[name]
    for step in name.split("."):
        if not isinstance(value, dict) or step not in value:
            raise SaebenchError(f"a row has no {name!r}; it has {', '.join(sorted(map(str, row)))}")
        value = value[step]
    return value


def _read_local(task: Sourced, data_dir: Path | None) -> tuple[str, list[Row]]:
    assert data_dir is not None
    rows = [row for name in task.local for row in json_lines(inside(data_dir, name), name)]
    return f"data folder: {', '.join(task.local)}", rows


def json_lines(path: Path, name: str) -> Iterator[Row]:
    """The rows of a file of JSON lines; ``name`` is for messages.

    Raises:
        SaebenchError: it is not readable, or a line is no JSON object.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                row = parse_json(line) if line.strip() else None
                if row is not None and not isinstance(row, dict):
                    raise SaebenchError(f"line {number} of {name} is not a JSON object")
                if row is not None:
                    yield row
    except (OSError, ValueError) as error:
        raise SaebenchError(f"{name} is not readable JSON lines ({error})") from error


def _read_package(task: Sourced, data_dir: Path | None) -> tuple[str, list[Row]]:
    folder = package_folder()
    assert folder is not None
    rows: list[Row] = []
    for part in task.sae_probes:
        for row in _compressed_csv(_package_file(folder, part)):
            if all(row.get(column) in values for column, values in part.only.items()):
                rows.append(row | part.constants)
    return f"sae-probes: {', '.join(dict.fromkeys(part.file for part in task.sae_probes))}", rows


def _compressed_csv(path: Path) -> Iterator[Row]:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
            text = stream.read().decode("utf-8")
        yield from csv.DictReader(io.StringIO(text, newline=""))
    except (OSError, ValueError, csv.Error) as error:
        raise SaebenchError(f"{path.name} of sae-probes could not be read ({error})") from error


_READERS = {"hub": _read_hub, "local": _read_local, "sae_probes": _read_package}
