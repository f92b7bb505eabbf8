"""The interface of adapters, the location of a checkpoint, and safe reading of its files."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from saebench.checkpoints.checked import check_archive
from saebench.checkpoints.given import Given
from saebench.errors import SaebenchError
from saebench.files import require_hub
from saebench.parsing import parse_json
from saebench.sae import AnyAutoencoder, CheckpointInfo

LARGEST_JSON = 20 * 2**20
METADATA_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Location:
    """A checkpoint's folder or file, local or on the hub. Hub files are fetched one by one, when they are read.

    Attributes:
        origin: as the user gave it.
        names: files there, as relative POSIX paths, at most two folders deep.
        given: what the user says of a checkpoint whose files leave it open.
    """

    origin: str
    names: tuple[str, ...]
    root: Path | None = None  # local folder
    repository: str | None = None  # on the hub
    subfolder: str = ""
    revision: str | None = None
    file: str | None = None  # the one file meant, where the user named a file
    given: Given = field(default_factory=Given)
    _fetched: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)
    loaded: dict[str, Any] = field(
        default_factory=dict, compare=False, repr=False
    )  # content of .pt files, which adapters share

    def has(self, name: str) -> bool:
        """Whether the file exists."""
        return name in self.names

    def matching(self, *suffixes: str) -> list[str]:
        """Files with one of the suffixes; only the given file where the user gave one."""
        pool = (self.file,) if self.file is not None else self.names
        return [name for name in pool if name.endswith(suffixes)]

    def path(self, name: str) -> Path:
        """A local path to the file, downloaded first where it is on the hub.

        Raises:
            SaebenchError: the file is not part of this checkpoint, or cannot be fetched.
        """
        if name not in self.names:
            raise SaebenchError(f"The checkpoint {self.origin} has no file {name}.")
        if self.root is not None:
            resolved = (self.root / name).resolve()
            if not resolved.is_relative_to(self.root.resolve()):
                raise SaebenchError(f"The file {name} of {self.origin} is outside its folder; it is not read.")
            return resolved
        if name not in self._fetched:
            self._fetched[name] = self._fetch(name)
        return self._fetched[name]

    def _fetch(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        assert self.repository is not None
        target = str(PurePosixPath(self.subfolder) / name)
        try:
            return Path(hf_hub_download(self.repository, target, revision=self.revision))
        except Exception as error:  # the library raises many types, all of which mean that the file is not available
            raise SaebenchError(f"The file {target} of {self.repository} cannot be fetched: {_first_line(error)}") from error

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file's object.

        Raises:
            SaebenchError: it is not JSON, not an object, or implausibly large.
        """
        path = self.path(name)
        try:
            if path.stat().st_size > LARGEST_JSON:
                raise SaebenchError(f"{name} of {self.origin} is over {LARGEST_JSON >> 20} MiB: it is not a configuration.")
            data = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SaebenchError(f"{name} of {self.origin} is not readable JSON: {_first_line(error)}.") from error
        if not isinstance(data, dict):
            found = {"NoneType": "null", "list": "a list", "str": "a text", "bool": "true or false"}.get(
                type(data).__name__, "a number"
            )
            raise SaebenchError(f"{name} of {self.origin} holds {found}, not an object.")
        return data

    def sha256(self, name: str) -> str:
        """Hash of a file, read in chunks."""
        digest = hashlib.sha256()
        with self.path(name).open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()


class Sizes(NamedTuple):
    """Width of the activations that an autoencoder reads, number of latents, width of the activations that it writes."""

    d_in: int
    n_latents: int
    d_out: int


class Recorded(TypedDict, total=False):
    """What only some formats record; see ``CheckpointInfo``."""

    scaling: str
    hook_out: str | None
    model: str | None
    context: int | None
    prepend_bos: bool | None
    dtype: str | None
    group_sizes: tuple[int, ...] | None
    training: dict[str, Any]


class Adapter(ABC):
    """Reads one format. Third parties register theirs in the entry-point group ``saebench.checkpoints``."""

    name: ClassVar[str]
    looks_for: ClassVar[str]
    """In words, what marks the format; shown where nothing is recognised."""
    fallback: ClassVar[bool] = False
    """Whether it is asked only where no other adapter recognises the checkpoint."""
    takes: ClassVar[tuple[str, ...]] = ()
    """The fields of ``Given`` that it uses; others are refused, as the checkpoint itself answers them."""

    @abstractmethod
    def recognise(self, location: Location) -> bool:
        """Whether the checkpoint is of this format, by file names, headers and small JSON files."""

    @abstractmethod
    def describe(self, location: Location) -> CheckpointInfo:
        """The checkpoint's metadata; no weights are loaded where the format allows."""

    def info(
        self, location: Location, sizes: Sizes, activation: dict[str, Any], hook: str | None, **recorded: Unpack[Recorded]
    ) -> CheckpointInfo:
        """Metadata of a checkpoint of this format. The activation function's name is the architecture.

        Args:
            location: of the checkpoint.
            sizes: of the weights.
            activation: the activation function as JSON data.
            hook: where it reads; where it writes as well, unless ``hook_out`` is recorded.
            recorded: further fields.
        """
        fields: Recorded = {"hook_out": hook, **recorded}
        return CheckpointInfo(
            location.origin, self.name, activation["name"], sizes.d_in, sizes.d_out, sizes.n_latents, activation,
            hook_in=hook, **fields,
        )  # fmt: skip

    @abstractmethod
    def load(self, location: Location) -> AnyAutoencoder:
        """The autoencoder. ``info.weights_sha256`` is filled in by the caller from ``weights_file``."""

    @abstractmethod
    def weights_file(self, location: Location) -> str:
        """The file that holds the weights."""

    def weights_files(self, location: Location) -> list[str]:
        """All files that hold weights, for formats that divide them among several."""
        return [self.weights_file(location)]

    def hashes(self, location: Location) -> list[str]:
        """The SHA-256 of each of them."""
        return [location.sha256(name) for name in self.weights_files(location)]


class PairAdapter(Adapter):
    """Reads a format of two files, ``config`` (JSON) and ``weights``, recognised by their names."""

    config: ClassVar[str]
    weights: ClassVar[str]

    def recognise(self, location: Location) -> bool:
        """By the names of the two files."""
        both = location.has(self.config) and location.has(self.weights)
        return both and location.file in (None, self.config, self.weights)

    def weights_file(self, location: Location) -> str:
        """The second of the two files."""
        return self.weights

    def header(self, location: Location, *needed: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """``safetensors_header`` of the weights.

        Raises:
            SaebenchError: a tensor of ``needed`` is missing (the message lists those there are).
        """
        found = safetensors_header(location, self.weights)
        if not set(needed) <= set(found):
            there = ", ".join(sorted(found))
            raise SaebenchError(f"{self.weights} of {location.origin} lacks {' or '.join(needed)}; it has: {there}.")
        return found


def locate(origin: str | Path) -> Location:
    """Find a checkpoint: a local file or folder, or on the hub ``owner/repository[/folder][@revision]``.

    Raises:
        SaebenchError: it does not exist, or the hub cannot be reached.
    """
    text = str(origin)
    path = Path(text).expanduser()
    if path.is_file():
        if path.resolve().parent.name == "checkpoints" and (path.resolve().parent.parent / "config.json").is_file():
            root = path.resolve().parent.parent  # the configuration of a step's weights is one folder up
            return Location(text, tuple(sorted(listing(root, depth=2))), root=root, file=f"checkpoints/{path.name}")
        names = tuple(sorted(listing(path.parent, depth=1)))
        return Location(text, names, root=path.parent, file=path.name)
    if path.is_dir():
        return Location(text, tuple(sorted(listing(path, depth=3))), root=path)
    bare = text.removeprefix("hf:")
    parts = bare.partition("@")[0].split("/")
    looks_local = text.startswith((".", "/", "~")) or len(parts) < 2 or not all(parts) or ".." in parts
    if looks_local:
        raise SaebenchError(f"There is no checkpoint at {text}.")
    require_hub(f"There is no file or folder {text}; if it is a hub name, the checkpoint")
    return _on_hub(text, "/".join(parts[:2]), "/".join(parts[2:]), bare.partition("@")[2] or None)


def _on_hub(origin: str, repository: str, subfolder: str, revision: str | None) -> Location:
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(repository, revision=revision)
    except Exception as error:  # the library raises many types, all of which mean that the repository is not available
        raise SaebenchError(f"The checkpoint {origin} could not be found on the hub: {_first_line(error)}") from error
    every = [sibling.rfilename for sibling in getattr(info, "siblings", None) or []]
    if subfolder in every:
        folder, _, file = subfolder.rpartition("/")
    else:
        folder, file = subfolder, ""
    prefix = f"{folder}/" if folder else ""
    names = tuple(sorted(name.removeprefix(prefix) for name in every if name.startswith(prefix)))
    if not names:
        raise SaebenchError(f"The repository {repository} has no folder {subfolder}.")
    return Location(origin, names, repository=repository, subfolder=folder, revision=info.sha, file=file or None)


def listing(folder: Path, depth: int, prefix: str = "") -> Iterator[str]:
    """Files of a folder and of those below it, ``depth`` deep, as POSIX paths; linked folders are not entered."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SaebenchError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    for entry in entries:
        if entry.is_file():
            yield prefix + entry.name
        elif entry.is_dir() and depth > 1 and not entry.is_symlink():
            yield from listing(entry, depth - 1, f"{prefix}{entry.name}/")


def read_torch(location: Location, name: str) -> Any:
    """The content of a ``.pt`` or ``.pth`` file, with ``weights_only=True``: no code in it is run.

    Raises:
        SaebenchError: the file is damaged, or is a pickle that needs more than tensors.
    """
    if name not in location.loaded:
        location.loaded[name] = _read_torch(location, name)
    found = location.loaded[name]
    return dict(found) if isinstance(found, dict) else found


def _read_torch(location: Location, name: str) -> Any:
    path = location.path(name)
    if _is_zip(path):
        check_archive(path, location.origin)
    try:
        with warnings.catch_warnings():  # files of other pickle protocols load all the same, or fail below
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # damaged files raise many types
        text = str(error)
        if "weights_only" in text.lower() or "Unsupported" in text or "WeightsUnpickler" in text:
            wanted = text.partition("GLOBAL ")[2].split(" ")[0] or "more than tensors"
            raise SaebenchError(
                f"{name} of {location.origin} is a pickle that needs {wanted} to load; code in a checkpoint is "
                "never run. Save its state dict instead."
            ) from error
        raise SaebenchError(f"{name} of {location.origin} cannot be read: {_first_line(error)}") from error


def read_safetensors(location: Location, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        SaebenchError: the file is truncated or not of this format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(location.path(name), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise SaebenchError(f"{name} of {location.origin} cannot be read: {_first_line(error)}") from error


def safetensors_header(location: Location, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """``{tensor: (shape, dtype)}`` of a safetensors file; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(location.path(name), framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise SaebenchError(f"{name} of {location.origin} cannot be read: {_first_line(error)}") from error


def take(tensors: dict[str, Tensor], name: str, location: Location) -> Tensor:
    """A tensor by name.

    Raises:
        SaebenchError: it is missing (the message lists those there are).
    """
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor):
        there = ", ".join(sorted(key for key, value in tensors.items() if isinstance(value, Tensor)))
        raise SaebenchError(f"The checkpoint {location.origin} lacks the tensor {name}; it has: {there or 'none'}.")
    return tensor


def take_matrix(tensors: dict[str, Tensor], name: str, location: Location) -> Tensor:
    """A tensor with two axes by name.

    Raises:
        SaebenchError: it is missing, or has another number of axes.
    """
    tensor = take(tensors, name, location)
    if tensor.ndim != 2:
        raise SaebenchError(
            f"The tensor {name} of {location.origin} has the shape {list(tensor.shape)}, not that of a matrix."
        )
    return tensor


def integer(value: Any, what: str, location: Location) -> int:
    """A whole number from a configuration (0-dimensional tensors are accepted).

    Raises:
        SaebenchError: it is not a whole number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_whole(value):
        raise SaebenchError(f"The checkpoint {location.origin} gives {value!r} for {what}; a whole number is needed.")
    return int(value)


def flag(config: dict[str, Any], key: str, location: Location, default: bool = False) -> bool:
    """A setting that is on or off; null is the default. A text such as "false" would otherwise count as on.

    Raises:
        SaebenchError: it is neither true nor false.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise SaebenchError(f"The checkpoint {location.origin} gives {value!r} for {key}; true or false is needed.")
    return default if value is None else value


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _first_line(error: BaseException) -> str:
    if isinstance(error, AttributeError | TypeError | LookupError):  # of a library's own code: no words for users
        return "it is damaged."
    text = str(error).strip()
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "it asks for more memory than there is"
    return text.splitlines()[0] if text else type(error).__name__
