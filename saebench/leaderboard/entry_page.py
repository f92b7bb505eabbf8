"""The page of one entry: every metric with its interval and its controls, what was measured, and its submitter."""

from __future__ import annotations

import json
from typing import Any

from saebench.comparison.samples import Z95, stated_error
from saebench.errors import plain
from saebench.leaderboard.imported import Imported
from saebench.leaderboard.rows import Row
from saebench.leaderboard.submission import Submission
from saebench.report.content import Line, facts, format_value, provenance
from saebench.report.figures import densities, positions
from saebench.report.metric_table import MetricGroup, MetricRow, MetricTable, scorecard_table
from saebench.report.page import drawn_figures, templates
from saebench.results import EvaluatorResult, Metric

PLOTLY = "plotly.min.js"
"""Plotly's script in the site's folder; all pages share it."""

CLAIMED = "claimed, not measured"


def render_entry(row: Row, entry: Submission | Imported, file: str) -> str:
    """The page of an entry; ``file`` is the entry's own file, in the page's folder."""
    content = _submitted(entry, row.verified) if isinstance(entry, Submission) else _imported(entry)
    up = "../" * row.page.count("/")
    figures = drawn_figures(content.pop("figures"), up + PLOTLY)
    return (
        templates()
        .get_template("entry.html")
        .render(title=row.name, home=up + "index.html", file=file, **content, **figures)
    )


def _submitted(entry: Submission, verified: str) -> dict[str, Any]:
    result = entry.result
    about = [("Weights", entry.origin), ("Licence", entry.licence), ("Contact", entry.contact)]
    about.append(("Verified", verified or "not reproduced by a maintainer yet"))
    return {
        "imported": False,
        "about": about,
        "command": entry.command,
        "facts": facts(result),
        "table": scorecard_table(result, lambda line: _interval_of(line, result.evaluators)),
        "figures": [each for each in (densities([result]), positions([result])) if each is not None],
        "unvouched": [],
        "provenance": [*provenance(result), ("Result, SHA-256", entry.result_sha256)],
        "sections": _sections({"Training": result.sae.training, "Settings": result.settings}),
    }


def _imported(entry: Imported) -> dict[str, Any]:
    claimed = {path for path in entry.unvouched if "." in path}
    groups = []
    for evaluator, found in entry.evaluators.items():
        rows = [
            MetricRow(
                name=plain(metric.name), unit=_unit(metric), direction=metric.direction,
                description=plain(metric.description),
                note=CLAIMED if f"{evaluator}.{metric.name}" in claimed else None,
                cells=((format_value(metric), "value"), (_interval(metric), "soft")),
            )
            for metric in found.metrics.values()
        ]  # fmt: skip
        groups.append(MetricGroup(plain(evaluator), tuple(rows)))
    n_latents = "unknown number of" if entry.sae.n_latents is None else f"{entry.sae.n_latents:,}"
    width = f", d = {entry.sae.d_in}" if entry.sae.d_in else ""
    shown = [
        ("Autoencoder", entry.sae.origin),
        ("Architecture", f"{entry.sae.architecture}, {n_latents} latents{width}"),
        ("Model", entry.model),
        ("Hook", entry.sae.hook),
    ]
    return {
        "imported": True,
        "about": [("Measured by", f"{entry.suite}, commit {entry.suite_commit or 'unknown'}")],
        "command": None,
        "facts": [(name, plain(value)) for name, value in shown],
        "table": MetricTable(f"Metrics of {plain(entry.name)}", ("Value", "95 % interval"), tuple(groups)),
        "figures": [],
        "unvouched": [(plain(name), plain(reason)) for name, reason in entry.unvouched.items()],
        "provenance": [(f"File {plain(name)}, SHA-256", sha256) for name, sha256 in entry.files.items()],
        "sections": _sections({"Settings": entry.settings}),
    }


def _interval_of(line: Line, evaluators: dict[str, EvaluatorResult]) -> str:
    metric = next(
        (found for name, each in evaluators.items() if plain(name) == line.evaluator
         for key, found in each.metrics.items() if plain(key) == line.name), None,
    )  # fmt: skip
    return "" if metric is None else _interval(metric)


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
