"""The checks of submissions for ``saebench leaderboard check`` and the site's build."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saebench.errors import SaebenchError, plain, shortened
from saebench.leaderboard.benchmark import CONTROLS, Benchmark, definition_problems, mismatches, read_benchmark
from saebench.leaderboard.files import (
    BENCHMARK,
    IMPORTED,
    VERIFIED,
    BadFile,
    board_folders,
    folder_name,
    is_folder_name,
    is_name,
)
from saebench.leaderboard.imported import Imported, read_imported
from saebench.leaderboard.plausible import implausible
from saebench.leaderboard.submission import Submission, read_submission
from saebench.leaderboard.verified import Verification, read_verified
from saebench.results import Result


@dataclass(frozen=True)
class Problem:
    """A problem of a file of the leaderboards, as a sentence without a full stop."""

    path: Path
    words: str

    def __str__(self) -> str:
        return f"{plain(str(self.path))}: {shortened(plain(self.words))}."


@dataclass
class Board:
    """A leaderboard read from disk.

    Attributes:
        benchmark: None where the folder only holds imported results, or its benchmark is invalid.
        submissions, imports: those that could be read, by their file.
        verified: by name of the submission, those that a maintainer reproduced.
        problems: of all its files.
    """

    folder: Path
    benchmark: Benchmark | None = None
    submissions: dict[Path, Submission] = field(default_factory=dict)
    imports: dict[Path, Imported] = field(default_factory=dict)
    verified: dict[str, Verification] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Its folder below the leaderboards', and below the site's: ``model/hook``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def report(self, path: Path, words: str) -> None:
        """Record a problem."""
        self.problems.append(Problem(path, words))


def load_boards(root: Path) -> list[Board]:
    """Every leaderboard below ``root``, read and checked.

    Raises:
        SaebenchError: there is no such folder.
    """
    strays = [path for path in sorted(root.glob("*")) if path.is_file() and path.suffix in (".json", ".toml")]
    boards = [load_board(folder) for folder in board_folders(root)]
    if strays:
        loose = Board(root)
        for path in strays:
            loose.report(path, "it is outside the folders <model>/<hook>")
        boards.append(loose)
    return boards


def load_board(folder: Path) -> Board:
    """One leaderboard, read and checked."""
    board = Board(folder)
    for part in (folder.parent, folder):
        if not is_folder_name(part.name) or part.is_symlink():
            board.report(part, "a folder's name has letters and digits with '.', '-' or '_' between them, and it is no link")
    _read_benchmark(board)
    for path in sorted(folder.iterdir()):
        if path.name in (BENCHMARK, VERIFIED) or path.name.startswith("."):
            continue
        if path.name == IMPORTED and path.is_dir() and not path.is_symlink():
            _read_imports(board, path)
        else:
            _read_entry(board, path)
    _check_duplicates(board)
    _read_verified(board)
    return board


def check_submission(submission: Submission, benchmark: Benchmark) -> list[str]:
    """Why a submission is not accepted, as sentences without a full stop."""
    result = submission.result
    return [*_incomplete(result), *mismatches(benchmark, result), *_controls(result, benchmark), *implausible(result)]


def problems_of(boards: Sequence[Board], only: Sequence[Path] = ()) -> list[Problem]:
    """The problems of all files, or of the given ones.

    Raises:
        SaebenchError: a given file is not part of the leaderboards.
    """
    found = [problem for board in boards for problem in board.problems]
    if not only:
        return found
    wanted = {path.absolute() for path in only}
    known = {path.absolute() for board in boards for path in (*board.submissions, *board.imports)}
    for path in only:
        if path.absolute() not in known and not any(problem.path.absolute() == path.absolute() for problem in found):
            raise SaebenchError(f"{path} is not a submission below the leaderboards' folder: give that folder with --root.")
    return [problem for problem in found if problem.path.absolute() in wanted]


def _read_benchmark(board: Board) -> None:
    path = board.folder / BENCHMARK
    if not path.exists() and (board.folder / IMPORTED).is_dir():
        return
    try:
        benchmark = read_benchmark(board.folder)
    except BadFile as error:
        board.report(path, str(error))
        return
    for problem in _misplaced(benchmark, board.folder):
        board.report(path, problem)
    for problem in definition_problems(benchmark):
        board.report(path, problem)
    board.benchmark = benchmark


def _misplaced(benchmark: Benchmark, folder: Path) -> Iterator[str]:
    wanted = (folder_name(benchmark.model.name), folder_name(benchmark.hook_in))
    if (folder.parent.name, folder.name) != wanted:
        yield f"it belongs in {wanted[0]}/{wanted[1]}"


def _read_entry(board: Board, path: Path) -> None:
    if not is_name(path.stem) or path.suffix != ".json":
        board.report(
            path,
            "only submissions are allowed here: <name>.json, of lower-case letters and digits with '.', '-' or '_' between",
        )
        return
    try:
        submission = read_submission(path)
    except BadFile as error:
        board.report(path, str(error))
        return
    if submission.name != path.stem:
        board.report(path, f"its name is {submission.name}: its file must be {submission.name}.json")
    if board.benchmark is None:
        board.report(path, f"there is no {BENCHMARK} to check it against")
    else:
        for problem in check_submission(submission, board.benchmark):
            board.report(path, problem)
    board.submissions[path] = submission


def _read_imports(board: Board, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if not is_name(path.stem) or path.suffix != ".json":
            board.report(path, "only imported results are allowed here, as <name>.json")
            continue
        try:
            board.imports[path] = read_imported(path)
        except BadFile as error:
            board.report(path, str(error))


def _read_verified(board: Board) -> None:
    path = board.folder / VERIFIED
    try:
        found = read_verified(board.folder)
    except BadFile as error:
        board.report(path, str(error))
        return
    submissions = {submission.name: submission for submission in board.submissions.values()}
    for name, made in found.items():
        if name not in submissions:
            board.report(path, f"it names {plain(name)[:80]}, which is no submission here")
        elif made.result_sha256 != submissions[name].result_sha256:
            board.report(path, f"{name} has changed since it was reproduced: reproduce it again, or remove its mark")
        else:
            board.verified[name] = made


def _check_duplicates(board: Board) -> None:
    seen: dict[str, Path] = {}
    for path, submission in board.submissions.items():
        key = submission.autoencoder
        if key in seen:
            board.report(path, f"the same autoencoder was submitted as {seen[key].name}")
        seen.setdefault(key, path)


def _incomplete(result: Result) -> Iterator[str]:
    if re.fullmatch("[0-9a-f]{64}", result.sae.weights_sha256 or "") is None:
        yield "the result does not hold the SHA-256 of the autoencoder's weights"
    if not result.complete:
        yield "the result is not complete: finish it with --resume"
    for name in result.failures:
        yield f"the evaluator {plain(name)[:60]} failed"


def _controls(result: Result, benchmark: Benchmark) -> Iterator[str]:
    for name in result.controls:
        if name not in CONTROLS:
            yield f"there is no control {plain(name)[:60]!r}"
    for name in dict.fromkeys(control for evaluator in result.evaluators for control in benchmark.controls_of(evaluator)):
        if name not in result.controls:
            yield f"the control {name!r} is missing: evaluate with --controls"
            continue
        for evaluator, found in result.evaluators.items():
            if name not in benchmark.controls_of(evaluator):
                continue
            measured = result.controls[name].get(evaluator)
            if measured is None:
                yield f"the control {name!r} has no {plain(evaluator)[:60]}"
            elif (measured.version, measured.settings) != (found.version, found.settings):
                yield f"the control {name!r} was measured with another version or other settings of {plain(evaluator)[:60]}"
