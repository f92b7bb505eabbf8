"""The figures of a page as plotly's JSON, each with a table of the same numbers; drawn only where its data exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saebench.errors import plain
from saebench.results import Result

LOSSES = {"ce_clean": "clean", "ce_spliced": "spliced", "ce_mean_ablated": "mean-ablated", "ce_zero_ablated": "zero-ablated"}
DECADES = {-6: "0.0001 %", -5: "0.001 %", -4: "0.01 %", -3: "0.1 %", -2: "1 %", -1: "10 %", 0: "100 %"}
DASHES = ("solid", "dash", "dot", "dashdot")
Z95 = 1.96
LONGEST_LABEL = 36
T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A figure with its texts and table.

    Attributes:
        key: its name within the page.
        caption: what is shown.
        summary: the text alternative for screen readers.
        traces: plotly's traces; ``meta`` is the index of the colour, which the page chooses by its theme.
        header: of the table of the same numbers; its first column is the horizontal axis.
        rows: of that table, as text.
    """

    key: str
    title: str
    caption: str
    summary: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    header: list[str]
    rows: list[list[str]]


class _Data(BaseModel):
    """Details of a result have no fixed schema: data that do not match are not drawn."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Histogram(_Data):
    log10_edges: list[float]
    counts: list[int]
    never_active: int = Field(ge=0)

    @model_validator(mode="after")
    def _fits(self) -> _Histogram:
        if not self.counts or len(self.log10_edges) != len(self.counts) + 1:
            raise ValueError("a histogram has one edge more than counts")
        return self


class _Curve(_Data):
    position: list[int]
    value: list[float | None]
    standard_error: list[float | None] | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Curve:
        lengths = {len(self.position), len(self.value), len(self.standard_error or self.value)}
        if len(lengths) != 1 or not self.position:
            raise ValueError("a curve has as many values as positions")
        return self


class _Levels(_Data):
    level: list[int]
    normalised_mse: list[float | None]

    @model_validator(mode="after")
    def _fits(self) -> _Levels:
        if not self.level or len(self.level) != len(self.normalised_mse):
            raise ValueError("a level has one value")
        return self


def figures(results: Sequence[Result]) -> list[Figure]:
    """The figures that the results have data for."""
    made = (densities(results), positions(results), losses(results), recovery(results))
    return [figure for figure in made if figure is not None]


def densities(results: Sequence[Result]) -> Figure | None:
    """Histogram of how often latents are active: bars for one autoencoder, steps for several."""
    found = _read(results, "density_histogram", _Histogram.model_validate)
    if not found:
        return None
    traces: list[dict[str, Any]] = []
    cells: dict[tuple[float, float], dict[int, int]] = {}
    for index, data in found.items():
        bins = list(zip(data.log10_edges, data.log10_edges[1:], strict=False))
        for edges, count in zip(bins, data.counts, strict=True):
            cells.setdefault(edges, {})[index] = count
        middles = [(low + high) / 2 for low, high in bins]
        common = {"x": middles, "y": data.counts, "name": _label(results[index]), "meta": index,
                  "customdata": [f"{_share(low)} to {_share(high)}" for low, high in bins],
                  "hovertemplate": "%{y:,} latents active on %{customdata} of tokens"}  # fmt: skip
        steps = {"type": "scatter", "mode": "lines", "line": {"shape": "hvh", "width": 2, "dash": dash(index)}}
        traces.append({**common, **({"type": "bar"} if len(found) == 1 else steps)})
    never = [f"{data.never_active:,}" + f" of {_name(results[index])}" * (len(found) > 1) for index, data in found.items()]
    ticks = {"tickmode": "array", "tickvals": list(DECADES), "ticktext": list(DECADES.values())}
    return Figure(
        key="density",
        title="Latent densities",
        caption=f"Latents by the share of tokens they are active on. Never active, and not shown: {'; '.join(never)}.",
        summary="Histogram of latents by the share of tokens on which they are active.",
        traces=traces,
        layout={"bargap": 0.04, "xaxis": {"title": {"text": "active on this share of tokens"}, **ticks},
                "yaxis": {"title": {"text": "latents"}, "rangemode": "tozero"}},
        header=["Share of tokens", *(_name(results[index]) for index in found)],
        rows=[[f"{_share(low)} to {_share(high)}", *(f"{counts[index]:,}" if index in counts else "" for index in found)]
              for (low, high), counts in sorted(cells.items())],
    )  # fmt: skip


def positions(results: Sequence[Result]) -> Figure | None:
    """Normalised error by position in the row, with a 95 % band where standard errors are known."""
    found = _read(results, "normalised_mse_by_position", _Curve.model_validate)
    if not found:
        return None
    traces: list[dict[str, Any]] = []
    for index, data in found.items():
        if data.standard_error is not None:
            traces.append(_band(data, index))
        traces.append({
            "type": "scatter", "mode": "lines", "x": data.position, "y": data.value, "name": _label(results[index]),
            "meta": index, "line": {"width": 2, "dash": dash(index)}, "hovertemplate": "position %{x}: %{y:.4f}",
        })  # fmt: skip
    places = sorted({place for data in found.values() for place in data.position})
    by_place = {index: dict(zip(data.position, data.value, strict=True)) for index, data in found.items()}
    banded = any(data.standard_error is not None for data in found.values())
    return Figure(
        key="position",
        title="Error by position",
        caption="Normalised mean squared error at each position of a row" + (", with 95 % intervals." if banded else "."),
        summary=f"Line chart of normalised mean squared error over positions {places[0]} to {places[-1]}.",
        traces=traces,
        layout={"xaxis": {"title": {"text": "position"}},
                "yaxis": {"title": {"text": "normalised MSE"}, "rangemode": "tozero"}},
        header=["Position", *(_name(results[index]) for index in found)],
        rows=[[str(place), *(_number(by_place[index].get(place)) for index in found)] for place in places],
    )  # fmt: skip


def recovery(results: Sequence[Result]) -> Figure | None:
    """Normalised error with only the largest latents of each token kept (Gao et al. 2024, section 5.3)."""
    found = _read(results, "by_count", _Levels.model_validate, "progressive")
    if not found:
        return None
    traces = [
        {"type": "scatter", "mode": "lines+markers", "x": data.level, "y": data.normalised_mse, "meta": index,
         "name": _label(results[index]), "line": {"width": 2, "dash": dash(index)}}
        for index, data in found.items()
    ]  # fmt: skip
    levels = sorted({level for data in found.values() for level in data.level})
    by_level = {index: dict(zip(data.level, data.normalised_mse, strict=True)) for index, data in found.items()}
    return Figure(
        key="recovery",
        title="Progressive recovery",
        caption="Normalised mean squared error when only this number of the largest latents of each token is kept.",
        summary=f"Line chart of normalised mean squared error over {levels[0]} to {levels[-1]} latents kept.",
        traces=traces,
        layout={"xaxis": {"title": {"text": "latents kept per token"}, "type": "log"},
                "yaxis": {"title": {"text": "normalised MSE"}, "rangemode": "tozero"}},
        header=["Latents kept", *(_name(results[index]) for index in found)],
        rows=[[str(level), *(_number(by_level[index].get(level)) for index in found)] for level in levels],
    )  # fmt: skip


def losses(results: Sequence[Result]) -> Figure | None:
    """Cross-entropies of the clean, spliced and ablated model, with 95 % intervals."""
    traces: list[dict[str, Any]] = []
    columns: dict[int, dict[str, float]] = {}
    for index, result in enumerate(results):
        metrics = result.evaluators["downstream"].metrics if "downstream" in result.evaluators else {}
        shown = {words: metrics[name] for name, words in LOSSES.items() if name in metrics}
        values = {words: metric.value for words, metric in shown.items() if metric.value is not None}
        if not values:
            continue
        columns[index] = values
        errors = [Z95 * (shown[words].standard_error or 0) for words in values]
        traces.append({
            "type": "bar", "x": list(values), "y": list(values.values()), "name": _label(result), "meta": index,
            "error_y": {"type": "data", "array": errors, "thickness": 1.2, "width": 4},
            "hovertemplate": "%{x}: %{y:.4f} nats",
        })  # fmt: skip
    if not traces:
        return None
    if len(traces) == 1:
        traces[0] |= {"texttemplate": "%{y:.3f}", "textposition": "inside", "insidetextanchor": "middle",
                      "textangle": 0}  # fmt: skip
    return Figure(
        key="loss",
        title="Loss of the language model",
        caption="Cross-entropy in nats per token, with 95 % intervals: of the unaltered model, with the reconstruction "
        "spliced in, and with the activations replaced by their mean or by zero.",
        summary="Bar chart of the language model's cross-entropy in nats per token.",
        traces=traces,
        layout={"bargap": 0.3, "bargroupgap": 0.08, "yaxis": {"title": {"text": "nats per token"}, "rangemode": "tozero"},
                "xaxis": {"type": "category", "tickvals": list(LOSSES.values()), "tickangle": 0,
                          "ticktext": [words.replace("-", "-<br>") for words in LOSSES.values()]}},
        header=["Model", *(_name(results[index]) for index in columns)],
        rows=[[words, *(_number(values.get(words)) for values in columns.values())] for words in LOSSES.values()
              if any(words in values for values in columns.values())],
    )  # fmt: skip


def _read(results: Sequence[Result], key: str, parse: Callable[[Any], T], name: str = "reconstruction") -> dict[int, T]:
    """What each result has under a key of an evaluator's details, by the result's index."""
    found: dict[int, T] = {}
    for index, result in enumerate(results):
        evaluator = result.evaluators.get(name)
        if evaluator is None or key not in evaluator.details:
            continue
        try:
            found[index] = parse(evaluator.details[key])
        except ValidationError:
            continue
    return found


def _band(data: _Curve, index: int) -> dict[str, Any]:
    """The 95 % band of a curve: its upper edge forwards, then its lower edge backwards."""
    known = [
        (place, value, error)
        for place, value, error in zip(data.position, data.value, data.standard_error or [], strict=True)
        if value is not None and error is not None
    ]
    upper, lower = ([value + sign * Z95 * error for _, value, error in known] for sign in (1, -1))
    places = [place for place, _, _ in known]
    return {"type": "scatter", "mode": "lines", "x": places + places[::-1], "y": upper + lower[::-1], "fill": "toself",
            "line": {"width": 0}, "opacity": 0.2, "hoverinfo": "skip", "showlegend": False, "meta": index}  # fmt: skip


def _name(result: Result) -> str:
    return plain(result.sae.origin)


def _label(result: Result) -> str:
    return label_text(result.sae.origin)


def label_text(text: str) -> str:
    """A name for a legend: short, and escaped, for plotly reads a subset of HTML in it."""
    name = plain(text)
    if len(name) > LONGEST_LABEL:
        name = f"{name[: LONGEST_LABEL // 3]}…{name[-2 * LONGEST_LABEL // 3 :]}"
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def dash(index: int) -> str:
    """The line style of a series, which distinguishes it without colour."""
    return DASHES[index % len(DASHES)]


def _share(log10: float) -> str:
    """A share of tokens in per cent."""
    return f"{100 * 10**log10:.2g} %" if log10 < 0 else "100 %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
