"""Frontier figures: fidelity over sparsity, one curve for each group, with 95 % error bars."""

from __future__ import annotations

from typing import Any

from saebench.comparison.compared import ComparedResults
from saebench.comparison.frontier import Curve, Point, points, x_name
from saebench.comparison.headline import L0, find_metric
from saebench.comparison.samples import Z95
from saebench.errors import plain
from saebench.report.figures import Figure, dash, label_text
from saebench.results import Metric


def frontier_figures(comparison: ComparedResults) -> list[Figure]:
    """A figure for each chosen metric with at least two points that can be drawn."""
    made = (_frontier(comparison, path) for path in comparison.metrics)
    return [figure for figure in made if figure is not None]


def _frontier(comparison: ComparedResults, path: str) -> Figure | None:
    drawn = [(curve, points(curve, path, comparison.by)) for curve in comparison.curves()]
    drawn = [(curve, measured) for curve, measured in drawn if measured]
    if sum(len(measured) for _, measured in drawn) < 2:
        return None
    metric = next(found for result in comparison.results if (found := find_metric(result, path)) is not None)
    horizontal = "L0 (active latents per token)" if x_name(comparison.by) == L0 else "latents"
    better = {"lower": ", lower is better", "higher": ", higher is better"}.get(metric.direction, "")
    return Figure(
        key=f"frontier-{comparison.metrics.index(path)}",
        title=plain(f"{metric.name} over {'L0' if x_name(comparison.by) == L0 else 'the number of latents'}"),
        caption=plain(f"{metric.description or metric.name}{better}. Both axes are logarithmic; bars are 95 % intervals."),
        summary=plain(f"Line chart of {metric.name} over {horizontal} for {', '.join(curve.name for curve, _ in drawn)}."),
        traces=[_trace(curve, measured, index) for index, (curve, measured) in enumerate(drawn)],
        layout={"xaxis": log_axis(horizontal, [point.x.value for _, measured in drawn for point in measured]),
                "yaxis": log_axis(axis_title(metric), [point.y.value for _, measured in drawn for point in measured])},
        header=["Autoencoder", "Curve", horizontal, metric.name, "Standard error"],
        rows=[
            [plain(point.result.sae.origin), plain(curve.name), f"{point.x.value:,.4g}", f"{point.y.value:.5g}",
             "" if point.y.error is None else f"{point.y.error:.2g}"]
            for curve, measured in drawn
            for point in measured
        ],
    )  # fmt: skip


def log_axis(title: str, values: list[float]) -> dict[str, Any]:
    """A logarithmic axis, numbers written out: at 1, 2 and 5 where it spans a decade; over less the page chooses marks."""
    marks = {"dtick": "D2"} if max(values) >= 10 * min(values) else {}
    return {"type": "log", "title": {"text": title}, "tickformat": ",~g"} | marks


def _trace(curve: Curve, measured: list[Point], index: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [point.x.value for point in measured],
        "y": [point.y.value for point in measured],
        "name": label_text(curve.name),
        "meta": index,
        "line": {"width": 2, "dash": dash(index)},
        "marker": {"size": 7},
        "error_x": {
            "type": "data",
            "array": [Z95 * (point.x.error or 0.0) for point in measured],
            "thickness": 1.2,
            "width": 3,
        },
        "error_y": {
            "type": "data",
            "array": [Z95 * (point.y.error or 0.0) for point in measured],
            "thickness": 1.2,
            "width": 3,
        },
        "customdata": [label_text(point.result.sae.origin) for point in measured],
        "hovertemplate": "%{customdata}<br>%{x:.4g}: %{y:.4g}",
    }


def axis_title(metric: Metric) -> str:
    """A metric's name with its unit."""
    return label_text(metric.name if metric.unit == "1" else f"{metric.name} ({metric.unit})")
