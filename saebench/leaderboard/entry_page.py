"""The page of one entry: every metric with its interval and its controls, what was measured, and its submitter."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from saebench.comparison.samples import Z95, stated_error
from saebench.leaderboard.imported import Imported
from saebench.leaderboard.rows import Row
from saebench.leaderboard.submission import Submission
from saebench.leaderboard.svg import draw
from saebench.report.content import Line, facts, format_value, lines, plain, provenance
from saebench.report.figures import densities, positions
from saebench.report.page import templates
from saebench.results import EvaluatorResult, Metric


def render_entry(row: Row, entry: Submission | Imported, file: str) -> str:
    """The page of an entry; ``file`` is the entry's own file, in the page's folder."""
    content = _submitted(entry) if isinstance(entry, Submission) else _imported(entry)
    home = "../" * row.page.count("/") + "index.html"
    return templates().get_template("entry.html").render(name=row.name, home=home, file=file, **content)


def _submitted(entry: Submission) -> dict[str, Any]:
    result = entry.result
    grouped = groupby(lines(result), key=lambda line: line.evaluator)
    about = [("Weights", entry.origin), ("Licence", entry.licence), ("Contact", entry.contact)]
    return {
        "imported": False,
        "about": about,
        "command": entry.command,
        "facts": facts(result),
        "controls": [plain(name) for name in result.controls],
        "groups": [(name, [_cells(line, result.evaluators) for line in each]) for name, each in grouped],
        "figures": [(each, draw(each)) for each in (densities([result]), positions([result])) if each is not None],
        "unvouched": [],
        "provenance": [*provenance(result), ("Result, SHA-256", entry.result_sha256)],
        "sections": _sections({"Training": result.sae.training, "Settings": result.settings}),
    }


def _imported(entry: Imported) -> dict[str, Any]:
    claimed = {path for path in entry.unvouched if "." in path}
    groups = []
    for evaluator, found in entry.evaluators.items():
        cells = []
        for metric in found.metrics.values():
            line = Line(
                evaluator=plain(evaluator), name=plain(metric.name), value=format_value(metric), unit=_unit(metric),
                direction=metric.direction, count="", description=plain(metric.description), controls=(), short_controls=(),
                note="claimed, not measured" if f"{evaluator}.{metric.name}" in claimed else None, seconds=0.0,
            )  # fmt: skip
            cells.append((line, _interval(metric)))
        groups.append((plain(evaluator), cells))
    width = f", d = {entry.sae.d_in}" if entry.sae.d_in else ""
    shown = [
        ("Autoencoder", entry.sae.origin),
        ("Architecture", f"{entry.sae.architecture}, {entry.sae.n_latents:,} latents{width}"),
        ("Model", entry.model),
        ("Hook", entry.sae.hook),
    ]
    return {
        "imported": True,
        "about": [("Measured by", f"{entry.suite}, commit {entry.suite_commit or 'unknown'}")],
        "command": None,
        "facts": [(name, plain(value)) for name, value in shown],
        "controls": [],
        "groups": groups,
        "figures": [],
        "unvouched": [(plain(name), plain(reason)) for name, reason in entry.unvouched.items()],
        "provenance": [(f"File {plain(name)}, SHA-256", sha256) for name, sha256 in entry.files.items()],
        "sections": _sections({"Settings": entry.settings}),
    }


def _cells(line: Line, evaluators: dict[str, EvaluatorResult]) -> tuple[Line, str]:
    metric = next(
        (found for name, each in evaluators.items() if plain(name) == line.evaluator
         for key, found in each.metrics.items() if plain(key) == line.name), None,
    )  # fmt: skip
    return line, "" if metric is None else _interval(metric)


def _interval(metric: Metric) -> str:
    """The 95 % interval: the stated one, else the normal one of the standard error."""
    if metric.value is None:
        return ""
    error = stated_error(metric)
    if metric.interval is not None:
        low, high = metric.interval
    elif error is not None:
        low, high = metric.value - Z95 * error, metric.value + Z95 * error
    else:
        return ""
    if not error:
        return f"{low:.4g} to {high:.4g}"
    digits = max(0, min(7, 1 - _exponent(error)))
    return f"{low:z,.{digits}f} to {high:z,.{digits}f}"


def _exponent(error: float) -> int:
    return int(f"{error:e}".partition("e")[2])


def _unit(metric: Metric) -> str:
    return "" if metric.unit == "1" else plain(metric.unit)


def _sections(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(each, indent=1)) for name, each in data.items() if each]
