"""A page with the training curves of a run, or of the members of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.files import write_text
from saebench.report.figures import Figure
from saebench.report.page import render_figures

CURVES = (
    ("normalised_mse", "Normalised MSE", "Squared error over the activations' variance, of each training batch.", "log"),
    ("l0", "L0", "Active latents per token.", "log"),
    ("dead_share", "Dead latents", "Share of latents that were not active for the run's `dead_after_tokens`.", "linear"),
)
TABLE_ROWS = 20


def write_training_page(records: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Write the page of runs by name; ``records`` are the training records of their checkpoints.

    Raises:
        SaebenchError: the path cannot be written.
    """
    speeds = [f"{name}: {each['tokens_per_second']:,.0f} tokens/s" for name, each in records.items()]
    figures = [_curve(records, *curve) for curve in CURVES]
    write_text(path, render_figures("Training", f"Trained by saebench. {'; '.join(speeds)}", figures))


def _curve(records: Mapping[str, dict[str, Any]], key: str, title: str, caption: str, scale: str) -> Figure:
    traces: list[dict[str, Any]] = []
    points: dict[str, list[tuple[int, float]]] = {}
    for colour, (name, record) in enumerate(records.items()):
        batch, history = record["config"]["batch"], record["history"]
        points[name] = [(int(step + 1) * batch, value) for step, value in zip(history["step"], history[key], strict=True)]
        xs, ys = zip(*points[name], strict=True) if points[name] else ((), ())
        traces.append({"type": "scatter", "mode": "lines", "name": name, "x": list(xs), "y": list(ys), "meta": colour})
    every = max(1, max(map(len, points.values())) // TABLE_ROWS)
    by_tokens = {name: dict(each) for name, each in points.items()}
    places = sorted({place for each in points.values() for place, _ in each[::every]})
    ends = ", ".join(f"{name} ends at {each[-1][1]:.4g}" for name, each in points.items() if each)
    return Figure(
        key=key,
        title=title,
        caption=caption,
        summary=f"Line chart of {title} over tokens trained on: {ends}.",
        traces=traces,
        layout={"xaxis": {"title": {"text": "tokens"}}, "yaxis": {"title": {"text": title}, "type": scale}},
        header=["Tokens", *points],
        rows=[[f"{place:,}", *(_number(each.get(place)) for each in by_tokens.values())] for place in places],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
