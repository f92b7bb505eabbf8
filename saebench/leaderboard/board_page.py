"""The page of one leaderboard: frontiers, a panel for each metric with its controls as bands, and ranks with ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from saebench.comparison.compared import ComparedResults
from saebench.comparison.figures import axis_title, frontier_figures, log_axis
from saebench.comparison.headline import L0, architecture_of, find_metric, headline, metric_value, trained_control
from saebench.comparison.ranks import MOST_RANKED, ranks
from saebench.comparison.samples import Z95, stated_error
from saebench.errors import plain
from saebench.leaderboard.checks import Board
from saebench.leaderboard.entry_page import PLOTLY
from saebench.leaderboard.saebench_export import SHAPES
from saebench.report.content import ARROWS, format_value
from saebench.report.figures import Figure, dash, label_text
from saebench.report.page import PageTable, drawn_figures, templates
from saebench.results import Metric, Result
from saebench.results.verdicts import cautions_on, mark_of

FRONTIERS = ("reconstruction.normalised_mse", "downstream.ce_difference", "downstream.kl_divergence")
SAEBENCH = (
    "core.ce_loss_score",
    "core.kl_div_score",
    "sparse_probing.sae_top_1_test_accuracy",
    "sparse_probing.sae_top_5_test_accuracy",
    "scr.scr_metric_threshold_20",
    "tpp.tpp_threshold_20_total_metric",
    "absorption.absorption_fraction",
    "absorption.full_absorption",
    "autointerp.autointerp_score",
    "ravel.disentanglement",
    "unlearning.unlearning_score",
)
"""The metrics of SAEBench's evaluations that have a column and a panel, in this order."""
BOARD_PAGE = "board.html"
KEY = (
    "Value ± standard error, and the rank in brackets: 1 and the number of SAEs that are better by a paired test at 5 % "
    "after Holm's correction over all pairs; SAEs that no test separates share a rank. Trained controls are not ranked, "
    "and metrics that the audit did not find sound rank nothing."
)
SAEBENCH_KEY = (
    "SAEBench's evaluations under its names of the metrics, measured by saebench with the benchmark's settings, of the "
    "entries that have them. Values and ranks as above, the ranks among these entries."
)


def render_board(board: Board, home: str, ranked: Collection[str] | None = None) -> str:
    """The page of a leaderboard's own entries.

    Args:
        board: with at least one submission.
        home: address of the site's index, relative to the page.
        ranked: metrics that are ranked, by ``evaluator.name``; all that are shown by default.
    """
    names = [submission.name for submission in board.submissions.values()]
    results = [submission.result for submission in board.submissions.values()]
    order = sorted(range(len(results)), key=lambda index: (_place(results[index]), names[index]))
    results, names = [results[index] for index in order], [names[index] for index in order]
    own = [path for path in headline(results) if path.partition(".")[0] not in SHAPES]
    theirs = [path for path in SAEBENCH if any(metric_value(result, path) is not None for result in results)]
    paths = [*own, *theirs]
    curves = ComparedResults(
        tuple(results), tuple(names), tuple(path for path in FRONTIERS if path in paths), "arch", (), ()
    )
    figures = [*frontier_figures(curves), *(panel(results, names, path, index) for index, path in enumerate(paths))]
    title = plain(board.benchmark.title) if board.benchmark is not None else board.folder.name
    return (
        templates()
        .get_template("board.html")
        .render(
            title=title,
            home=home,
            count=len(results),
            tables=_tables(results, names, own, theirs, paths if ranked is None else ranked),
            cautions=cautions_on(paths),
            **drawn_figures(figures, home.removesuffix("index.html") + PLOTLY),
        )
    )


def _tables(
    results: Sequence[Result], names: Sequence[str], own: Sequence[str], theirs: Sequence[str], ranked: Collection[str]
) -> list[tuple[PageTable, str]]:
    """The tables, each with its key: of all entries, and of SAEBench's evaluations where there are some."""
    key = KEY if len(results) <= MOST_RANKED else f"Value ± standard error. More than {MOST_RANKED} SAEs are not ranked."
    tables = [(rank_table(results, names, own, ranked), key)]
    having = [index for index, result in enumerate(results) if any(find_metric(result, path) for path in theirs)]
    if having:
        made = rank_table([results[index] for index in having], [names[index] for index in having], theirs, ranked)
        evaluations = Counter(SHAPES[path.partition(".")[0]].kind for path in theirs)
        header, rows = [made.header[0], *made.header[3:]], [[row[0], *row[3:]] for row in made.rows]  # the rest stands above
        table = PageTable("SAEBench's evaluations", header, rows, 1, list(evaluations.items()))
        tables.append((table, SAEBENCH_KEY))
    return tables


def rank_table(results: Sequence[Result], names: Sequence[str], paths: Sequence[str], ranked: Collection[str]) -> PageTable:
    """A row for each entry, a column for each metric; the best rank is marked."""
    usual = [index for index, result in enumerate(results) if not trained_control(result)]
    places: dict[str, list[int | None]] = {}
    for path in paths:
        places[path] = [None] * len(results)
        if path in ranked:
            for index, place in zip(usual, ranks([results[index] for index in usual], path), strict=True):
                places[path][index] = place
    rows = []
    for index, (result, name) in enumerate(zip(results, names, strict=True)):
        row = [
            (plain(name), ""),
            (plain(architecture_of(result)), ""),
            (f"{result.sae.n_latents:,}", ""),
            (_l0_text(result), ""),
        ]
        for path in paths:
            metric, place = find_metric(result, path), places[path][index]
            text = "" if metric is None else format_value(metric)
            row.append((f"{text} ({place})" if place is not None else text, "better" if place == 1 else ""))
        rows.append(row)
    heads = [_heading(path, next(m for result in results if (m := find_metric(result, path)) is not None)) for path in paths]
    return PageTable("Ranks", ["SAE", "Architecture", "Latents", "L0", *heads], rows, 2)


def panel(results: Sequence[Result], names: Sequence[str], path: str, number: int) -> Figure:
    """A metric over L0: the entries by architecture with 95 % intervals, and the band of each control."""
    metric = next(found for result in results if (found := find_metric(result, path)) is not None)
    groups: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        if find_metric(result, path) is not None:
            groups.setdefault(f"{architecture_of(result)}, n = {result.sae.n_latents:,}", []).append(index)
    bands = _bands(results, path)
    traces: list[dict[str, Any]] = [
        part for place, (name, points) in enumerate(bands.items()) for part in _band(name, points, len(groups) + place)
    ]
    table: list[list[str]] = []
    l0 = [metric_value(result, L0) or 0.0 for result in results]
    for place, (group, its) in enumerate(groups.items()):
        points = [(l0[index], find_metric(results[index], path), names[index]) for index in its if l0[index]]
        drawn = [(x, y, name) for x, y, name in points if y is not None and y.value is not None]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": label_text(group), "meta": place, "marker": {"size": 8},
                "x": [x for x, _, _ in drawn], "y": [y.value for _, y, _ in drawn],
                "error_y": {"type": "data", "array": [Z95 * (stated_error(y) or 0.0) for _, y, _ in drawn],
                            "thickness": 1.2, "width": 3},
                "customdata": [label_text(name) for _, _, name in drawn],
                "hovertemplate": "%{customdata}<br>L0 %{x:.4g}: %{y:.4g}",
            }
        )  # fmt: skip
        table += [[plain(name), plain(group), f"{x:,.4g}", format_value(y)] for x, y, name in drawn]
    table += [
        [plain(f"{name} control"), "", f"{x:,.4g}", f"{low:.4g} to {high:.4g}"]
        for name, points in bands.items()
        for x, low, high in points
    ]
    better = {"lower": ", lower is better", "higher": ", higher is better"}.get(metric.direction, "")
    return Figure(
        key=f"panel-{number}",
        title=plain(path) + mark_of(path),
        caption=plain(f"{metric.description or metric.name}{better}. Bars and bands (controls) are 95 % intervals."),
        summary=plain(f"Scatter plot of {metric.name} over L0 for {', '.join(groups)}, with controls {', '.join(bands)}."),
        traces=traces,
        layout={"xaxis": log_axis("L0 (active latents per token)", [x for x in l0 if x]),
                "yaxis": {"title": {"text": axis_title(metric)}}},
        header=["Autoencoder", "Group", "L0", metric.name],
        rows=table,
    )  # fmt: skip


def _bands(results: Sequence[Result], path: str) -> dict[str, list[tuple[float, float, float]]]:
    """By control, and width where there are several, ``(L0, low, high)`` in order of L0; at one L0 the hull."""
    several = len({result.sae.n_latents for result in results}) > 1
    found: dict[str, dict[float, tuple[float, float]]] = {}
    evaluator, _, name = path.partition(".")
    for result in results:
        for kind, its in result.controls.items():
            control = f"{kind}, n = {result.sae.n_latents:,}" if several else kind
            made = its[evaluator].metrics.get(name) if evaluator in its else None
            x = metric_value(result, L0)
            if made is None or made.value is None or not x:
                continue
            reach = Z95 * (stated_error(made) or 0.0)
            low, high = made.value - reach, made.value + reach
            at = found.setdefault(control, {}).get(round(x, 1), (low, high))
            found[control][round(x, 1)] = (min(at[0], low), max(at[1], high))
    return {name: [(x, *its[x]) for x in sorted(its)] for name, its in found.items()}


def _band(name: str, points: Sequence[tuple[float, float, float]], colour: int) -> list[dict[str, Any]]:
    """Two lines with the area between them filled; a single point becomes a short band."""
    if len(points) == 1:
        x, low, high = points[0]
        points = [(x / 1.05, low, high), (x * 1.05, low, high)]
    common = {
        "type": "scatter", "mode": "lines", "x": [x for x, _, _ in points], "meta": colour,
        "line": {"width": 1, "dash": dash(colour)}, "hoverinfo": "skip",
    }  # fmt: skip
    return [
        common | {"y": [low for _, low, _ in points], "showlegend": False, "name": label_text(name)},
        common | {"y": [high for _, _, high in points], "fill": "tonexty", "name": label_text(f"control: {name}")},
    ]


def _place(result: Result) -> tuple[bool, str, int, float]:
    return bool(trained_control(result)), architecture_of(result), result.sae.n_latents, metric_value(result, L0) or 0.0


def _l0_text(result: Result) -> str:
    value = metric_value(result, L0)
    return "" if value is None else f"{value:.4g}"


def _heading(path: str, metric: Metric) -> str:
    evaluator, _, name = path.partition(".")
    fields = SHAPES[evaluator].fields() if evaluator in SHAPES else {}
    return plain(f"{fields.get(name, name)} {ARROWS.get(metric.direction, '')}".strip()) + mark_of(path)
