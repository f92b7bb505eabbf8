"""One self-contained HTML page: scorecards, and the figures behind them. It opens from a file, without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from saebench.report.tables import facts, lines
from saebench.results import Result, write_text

PALETTE = ("#2a6fbb", "#c8553d", "#3b8c66", "#8a5fb0", "#b08900", "#4f6d7a", "#c0508f", "#6b7f2a")


def _templates() -> Environment:
    return Environment(loader=PackageLoader("saebench", "report/templates"), autoescape=select_autoescape(default=True))


def write_page(results: Sequence[Result], path: str | Path) -> None:
    """Write the page of one or several results.

    Raises:
        SaebenchError: the place cannot be written.
    """
    from plotly.offline import get_plotlyjs

    cards = [
        {
            "result": result,
            "facts": facts(result),
            "lines": list(lines(result)),
            "controls": list(result.controls),
            "settings": json.dumps(
                result.model_dump(include={"settings", "definitions", "environment", "stages"}), indent=1
            ),
        }
        for result in results
    ]
    page = (
        _templates()
        .get_template("page.html")
        .render(
            title=results[0].sae.origin if len(results) == 1 else f"{len(results)} sparse autoencoders",
            cards=cards,
            figures=[figure for figure in (densities(results), positions(results), losses(results)) if figure],
            plotly=Markup(get_plotlyjs()),
            figure_data=script_json,
        )
    )
    write_text(Path(path), page)


def render_html_table(result: Result) -> str:
    """The scorecard as an HTML table, for notebooks."""
    template = _templates().get_template("card.html")
    return template.render(
        card={"result": result, "facts": facts(result), "lines": list(lines(result)), "controls": list(result.controls)}
    )


def script_json(data: Any) -> Markup:
    """JSON that is safe inside a script element: no name in it can end the element or open a comment."""
    text = json.dumps(data, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def densities(results: Sequence[Result]) -> dict[str, Any] | None:
    """Histogram of how often latents are active."""
    traces = []
    for index, result in enumerate(results):
        histogram = _details(result, "reconstruction").get("density_histogram")
        if not histogram:
            continue
        edges = histogram["log10_edges"]
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        label = f"{_label(result)} ({histogram['never_active']:,} never active)"
        traces.append(_bars(middles, histogram["counts"], label, index, opacity=0.75))
    words = "How often latents are active: number of latents by the share of tokens they are active on, in powers of ten."
    layout = {"barmode": "overlay", "bargap": 0.05, "xaxis": {"title": {"text": "log₁₀ of the share of tokens"}},
              "yaxis": {"title": {"text": "latents"}}}  # fmt: skip
    return _figure("density", "Latent densities", words, traces, layout)


def positions(results: Sequence[Result]) -> dict[str, Any] | None:
    """Normalised error by position in the row."""
    traces = []
    for index, result in enumerate(results):
        curve = _details(result, "reconstruction").get("normalised_mse_by_position")
        if curve:
            line = {"color": PALETTE[index % len(PALETTE)], "width": 1.8}
            traces.append({"type": "scatter", "mode": "lines", "x": curve["position"], "y": curve["value"],
                           "name": _label(result), "line": line})  # fmt: skip
    words = "Normalised mean squared error at each position of a row (the variance there is about the overall mean)."
    layout = {
        "xaxis": {"title": {"text": "position"}},
        "yaxis": {"title": {"text": "normalised MSE"}, "rangemode": "tozero"},
    }
    return _figure("position", "Error by position", words, traces, layout)


def losses(results: Sequence[Result]) -> dict[str, Any] | None:
    """Cross-entropies of the clean, spliced and ablated model."""
    names = {
        "ce_clean": "clean",
        "ce_spliced": "spliced",
        "ce_mean_ablated": "mean-ablated",
        "ce_zero_ablated": "zero-ablated",
    }
    traces = []
    for index, result in enumerate(results):
        found = result.evaluators.get("downstream")
        metrics = [(words, found.metrics[name]) for name, words in names.items() if name in found.metrics] if found else []
        shown = [(words, metric) for words, metric in metrics if metric.value is not None]
        if shown:
            trace = _bars([words for words, _ in shown], [metric.value for _, metric in shown], _label(result), index)
            trace["error_y"] = {"type": "data", "array": [1.96 * (metric.standard_error or 0) for _, metric in shown]}
            traces.append(trace)
    words = "Cross-entropy of the language model in nats per token, with 95 % intervals."
    return _figure("loss", "Loss of the language model", words, traces, {"yaxis": {"title": {"text": "nats per token"}}})


def _details(result: Result, evaluator: str) -> dict[str, Any]:
    found = result.evaluators.get(evaluator)
    return found.details if found else {}


def _bars(x: list[Any], y: list[Any], name: str, index: int, opacity: float = 1.0) -> dict[str, Any]:
    color = PALETTE[index % len(PALETTE)]
    return {"type": "bar", "x": x, "y": y, "name": name, "opacity": opacity, "marker": {"color": color}}


def _label(result: Result) -> str:
    """A name for a legend: plotly reads a subset of HTML in it, so what could be markup is escaped."""
    return result.sae.origin.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _figure(
    key: str, title: str, caption: str, traces: list[dict[str, Any]], layout: dict[str, Any]
) -> dict[str, Any] | None:
    return {"id": key, "title": title, "caption": caption, "data": {"traces": traces, "layout": layout}} if traces else None
