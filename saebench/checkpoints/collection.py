"""Folders and repositories that hold many checkpoints: found, listed as a table, and named for ``evaluate``."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rich.table import Table
from rich.text import Text

from saebench import checkpoints
from saebench.checkpoints.base import Adapter, Location, listing, locate
from saebench.errors import SaebenchError

WEIGHTS = (".pt", ".pth", ".npz", ".safetensors")
DEPTH = 8
"""Folders below the given one that are searched."""

_SIGNATURES = (
    {"sae.json", "sae.safetensors"},
    {"cfg.json", "sae_weights.safetensors"},
    {"cfg.json", "sae.safetensors"},
    {"config.json", "ae.pt"},
    {"hyperparams.json"},
    {"params.npz"},
    {"params.safetensors"},
)
"""Names by which a checkpoint's folder is known without reading a file, for repositories on the hub."""


@dataclass(frozen=True)
class Collection:
    """Several checkpoints in one place.

    Attributes:
        origin: as the user gave it.
        members: the origin of each checkpoint.
        local: whether they are on this machine, so that each can be described without fetching it.
    """

    origin: str
    members: tuple[str, ...]
    local: bool

    @staticmethod
    def open(origin: str | Path) -> Collection | None:
        """The checkpoints within a folder or repository; None where it is itself one checkpoint, or holds none.

        Raises:
            SaebenchError: there is nothing, or the hub cannot be reached.
        """
        location = locate(origin)
        if location.file is not None or _adapter(location) is not None:
            return None
        found = Collection.within(origin)
        return found if found.members else None

    @staticmethod
    def within(origin: str | Path) -> Collection:
        """All checkpoints within a folder or repository, itself and the saved steps of its training included."""
        location = locate(origin)
        if location.root is not None:
            return Collection(str(origin), tuple(_local(Path(origin).expanduser())), local=True)
        folder, at, revision = str(origin).partition("@")
        names = sorted(_signed(location.names))
        return Collection(str(origin), tuple(f"{folder.rstrip('/')}/{name}{at}{revision}" for name in names), local=False)

    def table(self) -> Table:
        """A row for each checkpoint; what cannot be described says why."""
        table = Table("Checkpoint", "Format", "Architecture", "d_in", "Latents", "Hook", "Model", show_edge=False)
        for member in self.members:
            name = Text(member.removeprefix(self.origin).lstrip("/") or member)
            if not self.local:
                table.add_row(name, *["-"] * 6)
                continue
            try:
                info = checkpoints.inspect(member)
            except SaebenchError as error:
                table.add_row(name, Text(f"cannot be read: {error}"))
                continue
            cells = (info.format, info.architecture, str(info.d_in), f"{info.n_latents:,}", info.hook_in, info.model)
            table.add_row(name, *(Text(str(cell or "-")) for cell in cells))
        return table


def expand(origins: Sequence[str], inside: bool) -> list[str]:
    """The checkpoints that arguments of the command line mean: patterns are expanded, and with ``inside`` folders too.

    Raises:
        SaebenchError: a pattern or a folder has no checkpoint, or a folder has several and ``inside`` is not set.
    """
    found: list[str] = []
    for origin in origins:
        matches = (
            sorted(glob.glob(origin, recursive=True)) if glob.has_magic(origin) and not Path(origin).exists() else [origin]
        )
        if not matches:
            raise SaebenchError(f"No file or folder matches {origin}.")
        for match in matches:
            if inside:
                members = Collection.within(match).members
                if not members:
                    raise SaebenchError(f"There is no checkpoint within {match}.")
                found += members
                continue
            several = Collection.open(match)
            if several is not None:
                raise SaebenchError(
                    f"{match} holds {len(several.members)} checkpoints: evaluate all of them with --all, or name one "
                    "(`saebench inspect` lists them)."
                )
            found.append(match)
    return list(dict.fromkeys(found)) if inside else found


def _local(folder: Path) -> list[str]:
    """The checkpoints in a local folder and those below it."""
    if folder.is_file():
        return [str(folder)]
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in listing(folder, depth=DEPTH):
        by_folder[str(PurePosixPath(name).parent)].append(name)
    found: list[str] = []
    used: set[str] = set()
    for parent in sorted(by_folder):
        root = folder if parent == "." else folder / parent
        direct = [PurePosixPath(name).name for name in by_folder[parent]]
        below = [f"checkpoints/{PurePosixPath(name).name}" for name in by_folder.get(_join(parent, "checkpoints"), [])]
        location = Location(str(root), tuple(sorted([*direct, *(below if "hyperparams.json" in direct else [])])), root=root)
        adapter = _adapter(location)
        if adapter is not None:
            found.append(str(root / adapter.weights_file(location)) if adapter.fallback else str(root))
            used |= {str(root / name) for name in adapter.weights_files(location)}
        for name in direct if adapter is None else []:
            file = root / name
            if name.endswith(WEIGHTS) and str(file) not in used and _adapter(locate(file)) is not None:
                found.append(str(file))
    return found


def _join(parent: str, name: str) -> str:
    return name if parent == "." else f"{parent}/{name}"


def _adapter(location: Location) -> Adapter | None:
    """The adapter that recognises it, or None; a file that cannot be read is no checkpoint of a collection."""
    try:
        return checkpoints.recognise(replace(location, given=checkpoints.Given()))
    except SaebenchError:
        return None


def _signed(names: Sequence[str]) -> set[str]:
    """Folders of a repository whose files' names are those of a checkpoint."""
    by_folder: dict[str, set[str]] = defaultdict(set)
    for name in names:
        path = PurePosixPath(name)
        if str(path.parent) != ".":
            by_folder[str(path.parent)].add(path.name)
    return {folder for folder, files in by_folder.items() if any(signature <= files for signature in _SIGNATURES)}
