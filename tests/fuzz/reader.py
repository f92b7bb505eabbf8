"""A reader under test, its inputs, and the outcome of one input."""

from __future__ import annotations

import io
import random
import resource
import signal
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from rich.console import Console

from saebench import notices
from saebench.errors import NOT_SHOWN, ChoicesError, SaebenchError
from tests.fuzz.mutations import Files, mutate

LONGEST_MESSAGE = 500
MEMORY = 1536 << 20
"""Bytes of address space that reading may add to the process."""
SECONDS = 20
"""Of processor time, for one input."""


@dataclass(frozen=True)
class Case:
    """A valid input: files by name, which of them is read (the folder itself by default), and what else the reader needs."""

    files: Files
    open: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: as ``--reader`` takes it.
        cases: makes its valid inputs; the folder is for files that are written on the way.
        read: reads a path and asserts what a right result has; ``kind`` is the mutation's, empty for a valid input.
        mutate: changes the files.
    """

    name: str
    cases: Callable[[Path], list[Case]]
    read: Callable[[Path, Case, str], None]
    mutate: Callable[[Files, random.Random], tuple[Files, str]] = mutate


@dataclass(frozen=True)
class Outcome:
    """``read``, ``refused``, or a fault with its words."""

    seed: int
    kind: str
    words: str = ""


class TookTooLong(BaseException):
    """Not an ``Exception``, so that no reader catches it."""


class Trial:
    """A reader with its inputs in a folder of its own."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self._written: Files = {}
        (folder / "made").mkdir(parents=True)
        self.cases = reader.cases(folder / "made")
        for case in self.cases:  # what is not mutated must be read
            with quiet():
                reader.read(self._write(case.files, case), case, "")

    def run(self, seed: int) -> Outcome:
        """The outcome of one seed."""
        rng = random.Random(f"{self.reader.name}:{seed}")
        case = rng.choice(self.cases)
        files, kind = self.reader.mutate(case.files, rng)
        path = self._write(files, case)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                with quiet():
                    self.reader.read(path, case, kind)
                found = Outcome(seed, "read")
            except SaebenchError as error:
                problem = _of_message(error)
                found = Outcome(seed, "fault", problem) if problem else Outcome(seed, "refused", str(error))
            except (Exception, TookTooLong) as error:
                found = Outcome(seed, "fault", _place(error))
        loud = [each for each in warned if issubclass(each.category, UserWarning | FutureWarning | RuntimeWarning)]
        if loud and found.kind != "fault":
            return Outcome(seed, "fault", f"warns: {loud[0].category.__name__}: {str(loud[0].message)[:300]}")
        return found

    def _write(self, files: Files, case: Case) -> Path:
        """The files in the folder of the input; those that are there already stay, as removing folders takes long."""
        root = self.folder / "input"
        root.mkdir(exist_ok=True)
        for name in self._written.keys() - files.keys():
            (root / name).unlink(missing_ok=True)
        for name, content in files.items():
            if self._written.get(name) != content:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self._written = dict(files)
        return root / case.open


def quiet() -> AbstractContextManager[Any]:
    """Notices go to nobody."""
    return mock.patch.object(notices, "terminal", lambda **options: Console(file=io.StringIO()))


def _of_message(error: SaebenchError) -> str:
    """What is wrong with an error's message; empty where nothing is."""
    text = str(error)
    if len(text) > (2000 if isinstance(error, ChoicesError) else LONGEST_MESSAGE):
        return f"a message of {len(text)} characters: {text[:300]}"
    if not text.strip() or not text.isprintable():
        return f"a message with control characters, or none: {text[:200]!r}"
    if "allocate memory" in text or "MemoryError" in text or "NoneType" in text or "object has no attribute" in text:
        return f"a message that is not plain: {text}"
    return ""


def _place(error: BaseException) -> str:
    """The error with the last place in saebench that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/saebench/" in frame.filename]
    where = f"{frames[-1].filename.rpartition('/saebench/')[2]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}: {str(error)[:300]!r}"


@contextmanager
def limits() -> Iterator[None]:
    """Bounded memory for the process, as long as it lasts; each input has a limit of processor time, set by ``timed``."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    old = signal.signal(signal.SIGPROF, _too_long)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


def timed(trial: Trial, seed: int) -> Outcome:
    """``Trial.run`` with a limit of processor time, which a busy machine does not shorten."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return trial.run(seed)
    except TookTooLong:
        return Outcome(seed, "fault", f"took longer than {SECONDS} s")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TookTooLong(f"longer than {SECONDS} s")


def assert_printed(*shown: Any) -> None:
    """Print to a terminal of text, as a command does, and assert that nothing in it controls a terminal."""
    from saebench.terminal import terminal

    buffer = io.StringIO()
    console: Console = terminal(file=buffer, width=120)
    for each in shown:
        console.print(each)
    assert_plain(buffer.getvalue())


def assert_plain(text: str) -> None:
    """Assert that text for a terminal holds no characters that control it or reorder text, but ends of lines."""
    if text.replace("\n", "").isprintable():
        return
    bad = sorted({each for each in text if each != "\n" and unicodedata.category(each) in NOT_SHOWN})
    assert not bad, f"printed {bad[:5]!r}"
