"""The data of the site's table and plot: one row for each entry, with its numbers in columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.comparison.headline import L0, find_metric, headline, metric_paths
from saebench.comparison.samples import stated_error
from saebench.errors import plain
from saebench.leaderboard.checks import Board
from saebench.leaderboard.imported import Imported
from saebench.leaderboard.submission import Submission
from saebench.results import EvaluatorResult, Metric

L0_PATHS = (L0, "saebench_core.sparsity.l0", "saebench_basic.l0", "claimed.l0")
"""The metrics that hold an entry's L0, the most reliable first; the last is a claim."""
DIGITS = 6


@dataclass(frozen=True)
class Row:
    """An entry of the table.

    Attributes:
        page: the entry's page, relative to the site's root.
        board: number of its leaderboard.
        evaluators: its numbers.
        imported: whether another suite measured it.
        verified: when and with which version a maintainer reproduced it, in words; empty where nobody has.
    """

    name: str
    page: str
    board: int
    architecture: str
    n_latents: int | None
    evaluators: dict[str, EvaluatorResult]
    imported: bool = False
    verified: str = ""

    @property
    def l0(self) -> tuple[float | None, bool]:
        """``(L0, whether it is only claimed)``."""
        for path in L0_PATHS:
            metric = find_metric(self, path)
            if metric is not None and metric.value is not None:
                return metric.value, path == L0_PATHS[-1]
        return None, False


def entry_rows(boards: Sequence[Board]) -> list[tuple[Row, Submission | Imported, Path]]:
    """Every entry with its row and its file, boards in their order."""
    found: list[tuple[Row, Submission | Imported, Path]] = []
    for index, board in enumerate(boards):
        for path, submission in board.submissions.items():
            sae = submission.result.sae
            page = f"{board.address}/{submission.name}.html"
            row = Row(
                submission.name, page, index, plain(sae.architecture), sae.n_latents, submission.result.evaluators,
                verified=_verified(board, submission),
            )  # fmt: skip
            found.append((row, submission, path))
        for path, entry in board.imports.items():
            page = f"{board.address}/imported/{entry.name}.html"
            row = Row(entry.sae.origin, page, index, entry.sae.architecture, entry.sae.n_latents, entry.evaluators, True)
            found.append((row, entry, path))
    return found


def _verified(board: Board, submission: Submission) -> str:
    made = board.verified.get(submission.name)
    return (
        ""
        if made is None
        else f"reproduced on {made.date.isoformat()} with saebench {plain(made.saebench)}: {plain(made.part)}"
    )


def table_data(rows: Sequence[Row], boards: Sequence[dict[str, str]]) -> dict[str, Any]:
    """The table for the page's script, by columns, so that ten thousand rows stay small.

    ``boards`` are ``{model, hook, title}``.
    """
    own_first = sorted(rows, key=lambda row: row.imported)
    paths = [path for path in metric_paths(own_first) if path not in (L0, "claimed.l0")]
    l0 = [row.l0 for row in rows]
    return {
        "boards": list(boards),
        "metrics": [_description(path, rows) for path in paths],
        "start": _default_board(rows),
        "headline": [path for path in headline(rows) if path in paths],
        "rows": {
            "name": [row.name for row in rows],
            "page": [row.page for row in rows],
            "board": [row.board for row in rows],
            "architecture": [row.architecture for row in rows],
            "n": [row.n_latents for row in rows],
            "l0": [_short(value) for value, _ in l0],
            "claimed": [index for index, (_, claimed) in enumerate(l0) if claimed],
            "imported": [index for index, row in enumerate(rows) if row.imported],
            "verified": {str(index): row.verified for index, row in enumerate(rows) if row.verified},
        },
        "values": [[_short(metric.value) if (metric := find_metric(row, path)) else None for row in rows] for path in paths],
        "errors": [[_error(find_metric(row, path)) for row in rows] for path in paths],
    }


def _default_board(rows: Sequence[Row]) -> int:
    """The leaderboard that is shown first: the one with the most entries of this suite."""
    counts = Counter(row.board for row in rows if not row.imported) or Counter(row.board for row in rows)
    return counts.most_common(1)[0][0]


def _description(path: str, rows: Sequence[Row]) -> dict[str, str]:
    metric = next(found for row in rows if (found := find_metric(row, path)) is not None)
    return {
        "path": plain(path),
        "evaluator": plain(path.partition(".")[0]),
        "name": plain(metric.name),
        "unit": "" if metric.unit == "1" else plain(metric.unit),
        "direction": metric.direction,
        "description": plain(metric.description),
    }


def _error(metric: Metric | None) -> float | None:
    return None if metric is None or metric.value is None else _short(stated_error(metric))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
