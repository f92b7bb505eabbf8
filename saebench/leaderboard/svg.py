"""A report's figures as SVG without a script, so that pages of single entries stay small."""

from __future__ import annotations

import itertools
import math
from typing import Any

from markupsafe import Markup, escape

from saebench.report.figures import Figure

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 28, 10, 44


def draw(figure: Figure) -> Markup:
    """A figure with one series, of bars or of a line."""
    trace = next(each for each in figure.traces if not each.get("fill"))
    points = [(float(x), float(y)) for x, y in zip(trace["x"], trace["y"], strict=True) if y is not None]
    if not points:
        return Markup("")
    bars = trace["type"] == "bar"
    step = min((b[0] - a[0] for a, b in itertools.pairwise(points)), default=1.0)
    low = points[0][0] - (step / 2 if bars else 0)
    high = points[-1][0] + (step / 2 if bars else 0)
    top = max(y for _, y in points) or 1.0
    ticks = _ticks(top)
    scale = _Scale(low, high if high > low else low + 1, max(top, ticks[-1]))
    shape = _bars(points, step, scale) if bars else _line(points, scale)
    base = Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT)
    picture = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>')
    return picture.format(WIDTH, HEIGHT, figure.summary, _axes(figure, scale, ticks), shape, base)


class _Scale:
    def __init__(self, low: float, high: float, top: float) -> None:
        self.low, self.high, self.top = low, high, top

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM), 1)


def _axes(figure: Figure, scale: _Scale, ticks: list[float]) -> Markup:
    parts = []
    for tick in ticks:
        y = scale.y(tick)
        parts.append(Markup('<path class="rule" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(LEFT - 8, y + 4, f"{tick:g}"))
    axis = figure.layout.get("xaxis", {})
    for value, words in _x_ticks(axis, scale):
        parts.append(
            Markup('<text x="{}" y="{}" class="middle">{}</text>').format(scale.x(value), HEIGHT - BOTTOM + 18, words)
        )
    titles = (axis.get("title", {}).get("text", ""), figure.layout.get("yaxis", {}).get("title", {}).get("text", ""))
    parts.append(Markup('<text x="{}" y="{}" class="middle">{}</text>').format((WIDTH + LEFT) / 2, HEIGHT - 6, titles[0]))
    parts.append(
        Markup('<text x="{}" y="{}" class="middle" transform="rotate(-90 12 {})">{}</text>').format(
            12, HEIGHT / 2, HEIGHT / 2, titles[1]
        )
    )
    return Markup("").join(parts)


def _x_ticks(axis: dict[str, Any], scale: _Scale) -> list[tuple[float, str]]:
    if "tickvals" in axis:
        given = zip(axis["tickvals"], axis["ticktext"], strict=True)
        return [(value, words) for value, words in given if scale.low <= value <= scale.high]
    return [(tick, f"{tick:g}") for tick in _ticks(scale.high) if scale.low <= tick <= scale.high]


def _bars(points: list[tuple[float, float]], step: float, scale: _Scale) -> Markup:
    rectangle = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    made = []
    for x, y in points:
        left, right, top = scale.x(x - step * 0.48), scale.x(x + step * 0.48), scale.y(y)
        made.append(rectangle.format(left, top, round(right - left, 1), round(HEIGHT - BOTTOM - top, 1), f"{y:g}"))
    return Markup("").join(made)


def _line(points: list[tuple[float, float]], scale: _Scale) -> Markup:
    path = " ".join(f"{scale.x(x)} {scale.y(y)}" for x, y in points)
    return Markup('<path class="line" d="M{}"/>').format(escape(path))


def _ticks(top: float) -> list[float]:
    """From 0 to at least ``top`` in about four round steps."""
    rough = top / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    return [step * index for index in range(math.ceil(top / step - 1e-9) + 1)]
