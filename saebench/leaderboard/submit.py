"""Writing to the leaderboards: a benchmark, a submission, imported results; and reproducing a submission."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saebench.errors import SaebenchError
from saebench.files import write_text
from saebench.leaderboard.benchmark import benchmark_of, mismatches, read_benchmark, to_toml
from saebench.leaderboard.checks import check_submission, load_boards, problems_of
from saebench.leaderboard.files import BENCHMARK, IMPORTED, LARGEST_SUBMISSION, BadFile, board_folders, folder_name
from saebench.leaderboard.imported import Imported, import_saebench, merged, read_imported
from saebench.leaderboard.submission import Submission, make_submission, proposed_name, read_submission, to_json
from saebench.leaderboard.verified import mark, verification
from saebench.progress import Progress
from saebench.results import Result


def start(result: Result, title: str, controls: Sequence[str], root: Path) -> Path:
    """Write ``benchmark.toml`` from a result with the conditions that all submissions must have.

    Raises:
        SaebenchError: there is one already, or the result cannot define a benchmark.
    """
    folder = root / folder_name(result.model.name) / folder_name(result.sae.hook_in)
    path = folder / BENCHMARK
    if path.exists():
        raise SaebenchError(f"{path} exists: submit to it, or remove it first.")
    write_text(path, to_toml(benchmark_of(result, title, tuple(controls))))
    return path


def submit(
    result: Result, root: Path, name: str | None, origin: str, licence: str, contact: str, command: str | None
) -> Path:
    """Write a submission to the leaderboard that its result matches.

    Raises:
        SaebenchError: no leaderboard matches, it does not pass the checks, or it was submitted before.
    """
    folder = _fitting(result, root)
    try:
        submission = make_submission(result, name or proposed_name(result), origin, licence, contact, command)
    except BadFile as error:
        raise SaebenchError(f"This cannot be submitted: {error}.") from error
    problems = check_submission(submission, read_benchmark(folder))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SaebenchError(f"This cannot be submitted to {folder}: {problems[0]}{more}.")
    path = folder / f"{submission.name}.json"
    if path.exists():
        raise SaebenchError(f"{path} exists: choose another --name, or remove it first.")
    _refuse_repeated(submission, folder)
    text = to_json(submission)
    size = len(text.encode())
    if size > LARGEST_SUBMISSION:
        raise SaebenchError(
            f"The submission has {size:,} bytes, of which {LARGEST_SUBMISSION:,} are allowed: omit the evaluator whose "
            "details are the longest."
        )
    write_text(path, text)
    return path


@dataclass(frozen=True)
class Reproduced:
    """A submission that was reproduced.

    Attributes:
        path: of the submission.
        part: what was evaluated again, in words; ``seed``: from which it was drawn.
        problems: differences, as sentences; ``marked``: the file in which success was recorded.
    """

    path: Path
    part: str
    seed: int
    problems: list[str]
    marked: Path | None


def reproduce(
    entry: Path, checkpoint: str, root: Path, share: float, seed: int, record: bool, data_dir: str | None, progress: Progress
) -> Reproduced:
    """Evaluate a random part of a submission again and compare it; ``record`` marks it as verified where all agrees.

    Raises:
        SaebenchError: the submission does not pass the check, or the checkpoint, model, text or data are not available.
    """
    from saebench import checkpoints
    from saebench.leaderboard.reproduce import draw
    from saebench.leaderboard.reproduce import reproduce as run

    boards = load_boards(root)
    problems = problems_of(boards, [entry])
    if problems:
        raise SaebenchError(str(problems[0]))
    board, path = next(
        (board, path) for board in boards for path in board.submissions if path.absolute() == entry.absolute()
    )
    submission, benchmark = board.submissions[path], board.benchmark
    assert benchmark is not None  # the check above has raised otherwise
    part = draw(submission.result, share, seed)
    sae = checkpoints.load(checkpoint)
    found = [f"{path}: {problem}." for problem in run(submission, benchmark, sae, part, data_dir, progress)]
    marked = None
    if record and not found:
        marked = mark(board.folder, submission.name, verification(submission, str(part), seed))
    return Reproduced(path, str(part), seed, found, marked)


def import_results(
    files: Sequence[Path], root: Path, hook: str | None = None, model: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write entries from SAEBench's files: ``(files written, what could not be imported)``.

    Evaluations of an entry that exists are kept unless the files hold them again.
    """
    entries, problems = import_saebench(files, hook, model)
    paths = []
    for entry in entries:
        try:
            path = root / folder_name(entry.model) / folder_name(entry.sae.hook) / IMPORTED / f"{entry.name}.json"
            text = _with_earlier(entry, path).model_dump_json(indent=1) + "\n"
            if len(text.encode()) > LARGEST_SUBMISSION:
                raise BadFile(
                    f"its entry would have {len(text.encode()):,} bytes, of which {LARGEST_SUBMISSION:,} are allowed"
                )
            write_text(path, text)
        except (BadFile, SaebenchError) as error:
            problems.append(f"{', '.join(entry.files)}: {str(error).removesuffix('.')}")
        else:
            paths.append(path)
    return paths, problems


def _with_earlier(entry: Imported, path: Path) -> Imported:
    if not path.exists():
        return entry
    try:
        earlier = read_imported(path)
    except BadFile:
        return entry  # it cannot be shown either: the new entry replaces it
    return merged(earlier, entry)


def _fitting(result: Result, root: Path) -> Path:
    """The leaderboard of a result's model and hook; it must have the same text and settings."""
    near: list[tuple[int, Path, str]] = []
    for folder in board_folders(root):
        try:
            benchmark = read_benchmark(folder)
        except BadFile:
            continue
        problems = mismatches(benchmark, result)
        if not problems:
            return folder
        if (benchmark.model.weights_sha256, benchmark.hook_in) == (result.model.weights_sha256, result.sae.hook_in):
            near.append((len(problems), folder, problems[0]))
    if near:
        count, folder, problem = min(near)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise SaebenchError(f"The result does not follow the benchmark of {folder}: {problem}{more}.")
    raise SaebenchError(
        f"No leaderboard in {root} is for {result.model.name} at {result.sae.hook_in}: start one with "
        "`saebench leaderboard start`."
    )


def _refuse_repeated(submission: Submission, folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        try:
            other = read_submission(path)
        except BadFile:
            continue
        if other.autoencoder == submission.autoencoder:
            raise SaebenchError(f"This autoencoder was submitted before, as {path.name}: remove that file to replace it.")
