"""The site: an index with table and plot, and a page for each entry. Static; every page opens from a file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError, plain
from saebench.files import check_writable, write_text
from saebench.leaderboard.benchmark import Benchmark
from saebench.leaderboard.board_page import BOARD_PAGE, render_board
from saebench.leaderboard.checks import Board, load_boards
from saebench.leaderboard.entry_page import PLOTLY, render_entry
from saebench.leaderboard.rows import Row, entry_rows, table_data
from saebench.report.page import plotly_script, script_json, templates
from saebench.results.verdicts import carried, sound_metrics

MARKER = "made-by-saebench"
"""A file in the site's folder that marks it as written by saebench, so that a later build may replace it."""


def build(root: Path, out: Path) -> int:
    """Write the site of the leaderboards below ``root`` into ``out``; returns the number of entries.

    Raises:
        SaebenchError: an entry does not pass the checks, there is none, or ``out`` holds other files.
    """
    boards = load_boards(root)
    problems = [problem for board in boards for problem in board.problems]
    if problems:
        more = f" ({len(problems) - 1} more: see `saebench leaderboard check`)" if len(problems) > 1 else ""
        raise SaebenchError(f"{problems[0]}"[:-1] + f"{more}.")
    boards = [board for board in boards if board.submissions or board.imports]
    entries = entry_rows(boards)
    if not entries:
        raise SaebenchError(f"There are no entries in {root}: add some with `saebench leaderboard submit`.")
    _clear(out)
    for row, entry, path in entries:
        page = out / row.page
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render_entry(row, entry, path.name), encoding="utf-8")
        shutil.copyfile(path, page.with_suffix(".json"))
    for board in boards:
        if board.submissions:
            text = render_board(board, "../" * 2 + "index.html", sound_metrics() if carried() else None)
            write_text(out / f"{board.address}/{BOARD_PAGE}", text)
    write_text(out / PLOTLY, plotly_script())
    write_text(out / "index.html", render_index([row for row, _, _ in entries], [_describe(board) for board in boards]))
    return len(entries)


def render_index(rows: Sequence[Row], boards: Sequence[dict[str, Any]]) -> str:
    """The index. ``boards`` are ``{model, hook, title, facts}``, with the address of their ``page`` where they have one."""
    data = table_data(rows, [{name: board[name] for name in ("model", "hook", "title")} for board in boards])
    return (
        templates()
        .get_template("index.html")
        .render(title="Leaderboards", boards=boards, count=len(rows), data=script_json(data), plotly_file=PLOTLY)
    )


def _describe(board: Board) -> dict[str, Any]:
    """A leaderboard's description for the index."""
    benchmark = board.benchmark
    if benchmark is None:
        entry = next(iter(board.imports.values()))
        words = [("Measured by", "another suite, under its own conditions; nothing of it was checked here")]
        return {"model": entry.model, "hook": entry.sae.hook, "title": "Other suites", "facts": words}
    corpus = benchmark.corpus
    evaluators = ", ".join(f"{name} {rule.version}" for name, rule in benchmark.evaluators.items())
    found = [
        ("Text", f"{corpus.name} {corpus.revision or ''}: {corpus.tokens:,} tokens in rows of {corpus.context}"),
        ("Left out", corpus.excluded),
        ("Tokens, SHA-256", corpus.sha256),
        ("Evaluators", evaluators),
        ("Controls", _controls(benchmark)),
        ("Seed", str(benchmark.seed)),
    ]
    return {"model": plain(benchmark.model.name), "hook": plain(benchmark.hook_in), "title": plain(benchmark.title),
            "page": f"{board.address}/{BOARD_PAGE}" if board.submissions else "",
            "facts": [(name, plain(value)) for name, value in found]}  # fmt: skip


def _controls(benchmark: Benchmark) -> str:
    """The required controls, and the evaluators that need others."""
    others: dict[str, list[str]] = {}
    for name, rule in benchmark.evaluators.items():
        if rule.controls is not None:
            others.setdefault(", ".join(rule.controls) or "none", []).append(name)
    found = [", ".join(benchmark.controls) or "none"]
    return "; ".join([*found, *(f"for {', '.join(names)}: {controls}" for controls, names in others.items())])


def _clear(out: Path) -> None:
    """Create the folder, empty: files of an earlier build are removed; other files are an error."""
    if out.exists() and not out.is_dir():
        raise SaebenchError(f"{out} is a file: choose a folder for the site.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise SaebenchError(f"{out} holds other files than a site of saebench: choose an empty folder.")
        shutil.rmtree(out)
    check_writable(out / "index.html")
    (out / MARKER).write_text("")
