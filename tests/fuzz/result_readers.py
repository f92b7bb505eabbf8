"""Results, their comparison, and the files of a leaderboard."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from saebench.comparison.compare import compare
from saebench.errors import SaebenchError
from saebench.leaderboard.benchmark import benchmark_of, to_toml
from saebench.leaderboard.checks import load_boards, problems_of
from saebench.leaderboard.imported import Imported
from saebench.leaderboard.rows import entry_rows, table_data
from saebench.leaderboard.submission import to_json
from saebench.leaderboard.submit import import_results
from saebench.report import render_markdown, render_terminal, write_page
from saebench.report.scorecard import Scorecard
from saebench.results import Result, read_result, validate
from tests.fuzz.hostile import as_json, changed_data
from tests.fuzz.mutations import Files, mutate
from tests.fuzz.reader import LONGEST_MESSAGE, Case, Reader, assert_plain, assert_printed
from tests.leaderboard.samples import CONTROLS, FOLDER, entry_result, saebench_file, submission
from tests.sample_results import evaluator, metric, sample_result


def with_details(origin: str = "made/one", scale: float = 1.0) -> Result:
    """A result with sums by row, values by unit, and latents."""
    base = sample_result(origin, scale)
    rows = {
        "squared_error": [1.5 * scale, 2.0, 2.5],
        "variance": [9.0, 11.0, 12.0],
        "tokens": [8.0, 8.0, 8.0],
        "rows_per_group": 1,
    }
    units = {"f1": {"unit": "tasks", "keys": ["a", "b", "c"], "values": [0.5, 0.75, 1.0]}}
    parts = dict(base.evaluators)
    parts["reconstruction"] = parts["reconstruction"].model_copy(
        update={"details": parts["reconstruction"].details | {"by_row": rows}}
    )
    parts["probe"] = evaluator(
        "probe", [metric("f1", 0.75, 0.1, direction="higher", n=3, n_unit="tasks")], {"by_unit": units}
    )
    return base.model_copy(update={"evaluators": parts, "notices": ["a note"], "failures": {"ablation": "it failed"}})


def _results(folder: Path) -> list[Case]:
    made = [with_details(), sample_result(controls=True)]
    return [Case({"result.json": each.model_dump_json(indent=1).encode()}, "result.json") for each in made]


def _read_result(path: Path, case: Case, kind: str) -> None:
    for problem in validate(path):
        if len(problem) > LONGEST_MESSAGE or not problem.isprintable():
            raise AssertionError(f"a problem of {len(problem)} characters: {problem[:300]!r}")
    result = read_result(path)
    assert Result.model_validate_json(result.model_dump_json()) == result
    view = digest_of(path) % 32
    if view % 2:
        assert_printed(render_terminal(result) if view % 4 == 1 else Scorecard(result))
    else:
        assert_plain(render_markdown(result))
    if view == 0:  # pages take most of the time
        page = path.parent.parent / "page.html"
        write_page([result], page)
        assert "<script>alert(1)" not in page.read_text()


def digest_of(path: Path) -> int:
    """A number of the file's content."""
    return sum(path.read_bytes()[:5000])


def _compared(folder: Path) -> list[Case]:
    made = {"a.json": with_details("made/a", 1.0), "b.json": with_details("made/b", 1.3)}
    return [Case({name: each.model_dump_json().encode() for name, each in made.items()})]


def _compare(path: Path, case: Case, kind: str) -> None:
    found = compare(path / "a.json", path / "b.json", force=True)
    view = digest_of(path / "a.json") % 64  # one of the views for each input: all of them take ten times as long
    if view % 3 == 0:
        assert_printed(found)
    elif view % 3 == 1:
        assert_plain(found.markdown())
    else:
        assert_plain(found.csv())
    if view == 0:
        found.page(path.parent / "page.html")


def _board(name: str) -> Callable[[Path], list[Case]]:
    def cases(folder: Path) -> list[Case]:
        toml = to_toml(benchmark_of(entry_result(), "A test", CONTROLS)).encode()
        entry = to_json(submission()).encode()
        files = {f"{FOLDER}/benchmark.toml": toml, f"{FOLDER}/entry.json": entry}
        if name == "imported":
            import_results([saebench_file(folder / "r.json")], folder / "root")
            (written,) = (folder / "root").rglob("imported/*.json")
            files[written.relative_to(folder / "root").as_posix()] = written.read_bytes()
        return [Case(files)]

    return cases


def _only(part: str) -> Callable[[Files, random.Random], tuple[Files, str]]:
    """Changes of one file; a submission's hash is made to fit now and then, or nothing behind it would be reached."""

    def change(files: Files, rng: random.Random) -> tuple[Files, str]:
        (name,) = [each for each in files if part in each]
        made, kind = mutate({name: files[name]}, rng)
        if name.endswith("entry.json") and rng.random() < 0.7:
            data = json.loads(files[name])
            changed = changed_data(data["result"], rng)
            try:
                from saebench.results import canonical_hash

                data |= {"result": changed, "result_sha256": canonical_hash(changed)}
                made = {name: as_json(data, random.Random(0))}
            except ValueError:
                pass
        return {**{each: data for each, data in files.items() if each != name}, **made}, kind

    return change


def _check_board(path: Path, case: Case, kind: str) -> None:
    boards = load_boards(path)
    problems = [str(problem) for problem in problems_of(boards)]
    for problem in problems:
        if len(problem) > LONGEST_MESSAGE + 200 or not problem.isprintable():
            raise AssertionError(f"a problem of {len(problem)} characters: {problem[:300]!r}")
    if any(board.problems for board in boards):
        raise SaebenchError("The leaderboard has problems.")
    rows = [row for row, _, _ in entry_rows(boards)]
    if rows:
        json.dumps(table_data(rows, [{"model": "m", "hook": "h", "title": "t"} for _ in boards]), allow_nan=False)


def _saebench_files(folder: Path) -> list[Case]:
    measured = {"sparsity": {"l0": 40.2, "l1": 100.0}, "reconstruction_quality": {"mse": 0.3, "explained_variance": 0.8}}
    core = saebench_file(folder / "core.json", 41, eval_type_id="core", eval_result_metrics=measured)
    probing = saebench_file(folder / "probing.json", 41)
    return [Case({"core.json": core.read_bytes(), "probing.json": probing.read_bytes()})]


def _import(path: Path, case: Case, kind: str) -> None:
    files, out = sorted(path.glob("*.json")), path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    paths, problems = import_results(files, out)
    if problems:
        raise SaebenchError(problems[0])
    for written in paths:
        entry = Imported.model_validate_json(written.read_text(encoding="utf-8"), strict=True)
        assert entry.evaluators
        assert_plain(
            entry.sae.origin + entry.model + "".join(name for each in entry.evaluators.values() for name in each.metrics)
        )


READERS = [
    Reader("result", _results, _read_result),
    Reader("comparison", _compared, _compare),
    Reader("leaderboard_entry", _board("entry"), _check_board, _only("entry.json")),
    Reader("leaderboard_benchmark", _board("benchmark"), _check_board, _only("benchmark.toml")),
    Reader("leaderboard_imported", _board("imported"), _check_board, _only("/imported/")),
    Reader("saebench_results", _saebench_files, _import),
]
