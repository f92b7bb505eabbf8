"""The figures of an audit: a heat map of metrics by lenses, dose-response curves, separation from controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saebench.audit.scores import Score, grouped, of_role
from saebench.audit.verdicts import ORDER, Audited
from saebench.report.figures import Figure
from saebench.results.verdicts import MARKS

LEVELS = {"failed": 0, "care": 1, "not known": None, "passed": 2}
MOST_CURVES = 6


def audit_figures(audited: Sequence[Audited], scores: Sequence[Score]) -> list[Figure]:
    """The figures for which there are numbers."""
    found = [_heat_map(audited)]
    for each in audited:
        counted = each.findings["dose"].details.get("counted", [])
        if counted:
            found.append(_curves(each.metric, [s for s in of_role(scores, "damaged") if s.metric == each.metric], counted))
    separation = _separation(audited)
    return [*found, *([separation] if separation else [])]


def _heat_map(audited: Sequence[Audited]) -> Figure:
    """Metrics in blocks by evaluator, each with the mark of its verdict; the lenses' names stand above and below."""
    names = [f"{each.metric} {each.verdict.mark}" for each in audited]
    outcomes = [
        [each.findings[lens].outcome if lens in each.findings else "not known" for lens in ORDER] for each in audited
    ]
    colours = [[0.0, "#c0392b"], [0.5, "#d9a521"], [1.0, "#2f7f6f"]]
    trace: dict[str, Any] = {
        "type": "heatmap", "x": list(ORDER), "y": names, "z": [[LEVELS[one] for one in row] for row in outcomes],
        "zmin": 0, "zmax": 2, "colorscale": colours, "showscale": False, "xgap": 2, "ygap": 2,
        "hoverongaps": False, "text": outcomes, "hovertemplate": "%{y}<br>%{x}: %{text}<extra></extra>",
    }  # fmt: skip
    below: dict[str, Any] = {  # an axis is drawn only where a trace uses it
        "type": "scatter", "mode": "markers", "x": list(ORDER), "y": names[-1:] * len(ORDER), "xaxis": "x2", "opacity": 0,
        "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip
    layout = {
        "height": 120 + 20 * len(names),
        "yaxis": {"range": [len(names) - 0.5, -0.5], "title": {"text": ""}, "ticks": ""},  # markers would widen it
        "xaxis": {"side": "top"}, "shapes": [_line(place - 0.5) for place in _starts(audited)[1:]],
        "xaxis2": {"side": "bottom", "overlaying": "x", "matches": "x", "showgrid": False, "automargin": True},
    }  # fmt: skip
    return Figure(
        "lenses", "Metrics by lenses",
        "Green: passed. Yellow: in part. Red: failed. Empty: not known, because the lens could not be run. Verdict: "
        f"{', '.join(f'{mark} {standing}' for standing, mark in MARKS.items())}; the table has the reasons.",
        "Heat map of the outcome of each lens for each metric.", [trace, below], layout,
        ["Metric", "Verdict", "Why", *ORDER],
        [[each.metric, each.verdict.standing, each.verdict.sentence, *row]
         for each, row in zip(audited, outcomes, strict=True)],
    )  # fmt: skip


def _starts(audited: Sequence[Audited]) -> list[int]:
    """The places at which another evaluator's metrics begin, 0 included."""
    owners = [each.metric.partition(".")[0] for each in audited]
    return [place for place, owner in enumerate(owners) if place == 0 or owner != owners[place - 1]]


def _line(place: float) -> dict[str, Any]:
    """A horizontal line from edge to edge of a figure, labels included."""
    line = {"color": "#8a93a3", "width": 1}
    return {"type": "line", "xref": "paper", "x0": -0.5, "x1": 1, "y0": place, "y1": place, "line": line}


def _curves(metric: str, scores: Sequence[Score], counted: Sequence[str]) -> Figure:
    traces: list[dict[str, Any]] = []
    rows = []
    for index, (kind, its) in enumerate(grouped(scores, lambda each: each.subject.damage).items()):
        ordered = sorted(its, key=lambda each: each.subject.dose)
        most = max(each.subject.dose for each in ordered) or 1.0
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": kind, "meta": index % MOST_CURVES,
            "x": [each.subject.dose / most for each in ordered], "y": [each.value for each in ordered],
            "visible": True if kind in counted else "legendonly",
            "line": {"dash": "solid" if index < MOST_CURVES else "dot"},
        })  # fmt: skip
        rows += [[f"{kind} {each.subject.dose:g}", f"{each.value:.4g}", _error(each.error)] for each in ordered]
    return Figure(
        f"dose-{metric.replace('.', '-')}", f"{metric} over dose",
        f"Values on the oracle damaged in known doses. Shown: damages that the metric is meant to see "
        f"({', '.join(counted)}); the others are in the legend.",
        f"Line chart of {metric} over the dose of each damage.", traces,
        {"xaxis": {"title": {"text": "dose, share of the largest"}}, "yaxis": {"title": {"text": metric.partition(".")[2]}}},
        ["Damage", "Value", "Standard error"], rows,
    )  # fmt: skip


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2g}"


def _separation(audited: Sequence[Audited]) -> Figure | None:
    found = {each.metric: each.findings["floors"].details.get("controls", {}) for each in audited}
    kinds = sorted({kind for controls in found.values() for kind in controls})
    if not kinds:
        return None
    traces: list[dict[str, Any]] = []
    rows = []
    for index, kind in enumerate(kinds):
        its = {metric: controls[kind] for metric, controls in found.items() if kind in controls}
        signed = [float(np.sign(each["effect"]) * np.log10(1 + abs(each["effect"]))) for each in its.values()]
        traces.append({"type": "scatter", "mode": "markers", "name": kind, "meta": index, "x": signed, "y": list(its)})
        rows += [[m, kind, f"{e['effect']:.2f}", f"{e['p_holm']:.2g}", f"{e['pairs']:.0f}"] for m, e in its.items()]
    layout = {
        "height": 120 + 20 * len(found), "margin": {"l": 290, "r": 20, "t": 30},
        "xaxis": {"title": {"text": "effect, as signed log10(1 + size)"}, "zeroline": True},
        "yaxis": {"autorange": "reversed", "title": {"text": ""}},
    }  # fmt: skip
    return Figure(
        "separation", "Separation of trained autoencoders from controls",
        "Standardised mean difference of pairs; right of 0, trained ones are better.",
        "Dot plot of the separation from each control for each metric.", traces, layout,
        ["Metric", "Control", "Effect", "p (Holm)", "Pairs"], rows,
    )  # fmt: skip
