"""Traces and axes that the studies' figures share. ``meta`` is the index of the colour, which the page chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Z95 = 1.96


def line(
    x: Sequence[Any], y: Sequence[Any], name: str, colour: int, errors: Sequence[float | None] | None = None, **more: Any
) -> dict[str, Any]:
    """A line; with ``errors`` (standard errors) it has markers and 95 % intervals."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines" if errors is None else "lines+markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "meta": colour,
        "line": {"width": 2},
    }
    if errors is not None:
        trace["error_y"] = {"type": "data", "array": [Z95 * (each or 0) for each in errors], "thickness": 1}
    return trace | more


def dots(x: Sequence[Any], y: Sequence[Any], name: str, colour: int, **more: Any) -> dict[str, Any]:
    """Markers alone."""
    marker = {"size": 6, "opacity": 0.7}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "meta": colour,
        "marker": marker,
    } | more


def bars(x: Sequence[Any], y: Sequence[Any], name: str, colour: int) -> dict[str, Any]:
    """Bars."""
    return {"type": "bar", "x": list(x), "y": list(y), "name": name, "meta": colour}


def axes(x: str, y: str, *, log: str = "", from_zero: bool = True, **more: Any) -> dict[str, Any]:
    """A layout with titles; ``log`` names the axes (``x``, ``y`` or ``xy``) that are logarithmic."""
    across: dict[str, Any] = {"title": {"text": x}}
    up: dict[str, Any] = {"title": {"text": y}}
    if "x" in log:
        across["type"] = "log"
    if "y" in log:
        up["type"] = "log"
    elif from_zero:
        up["rangemode"] = "tozero"
    return {"xaxis": across, "yaxis": up, **more}


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table, empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"
