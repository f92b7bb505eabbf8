"""One self-contained HTML page: scorecards, and the figures behind them. It opens from a file, without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup, escape

from saebench.errors import SaebenchError, plain
from saebench.files import write_text
from saebench.report.content import Line, cautions, facts, provenance
from saebench.report.content import differences as conditions_that_differ
from saebench.report.figures import Figure
from saebench.report.figures import figures as figures_of
from saebench.report.metric_table import scorecard_table, side_by_side_table
from saebench.results import Result


@dataclass(frozen=True)
class PageTable:
    """A table of a page: ``rows`` of ``(text, outcome)``, of which the first ``left`` columns hold text.

    An outcome is that of a verdict (``better``, ``worse``, ...) and colours the cell; it is empty where there is none.
    ``groups`` are headings above the last columns, each with the number of its columns.
    """

    title: str
    header: list[str]
    rows: list[list[tuple[str, str]]]
    left: int
    groups: list[tuple[str, int]] = field(default_factory=list)


def write_page(
    results: Sequence[Result],
    path: str | Path,
    figures: Sequence[Figure] = (),
    differences: Sequence[str] | None = None,
    tables: Sequence[PageTable] = (),
    key: str = "",
) -> None:
    """Write the page of one or several results.

    Args:
        results: the results.
        path: of the page.
        figures: further figures, shown before those of the results themselves.
        differences: the conditions in which the results differ; by default those of ``content.differences``.
        tables: shown first; ``key``: what their marks mean.

    Raises:
        SaebenchError: there is no result, or the path cannot be written.
    """
    if not results:
        raise SaebenchError("There is no result to write a page of: give at least one result file.")
    write_text(Path(path), render_page(results, figures, differences, tables, key))


def render_page(
    results: Sequence[Result],
    figures: Sequence[Figure] = (),
    differences: Sequence[str] | None = None,
    tables: Sequence[PageTable] = (),
    key: str = "",
) -> str:
    """The page of one or several results, whole; see ``write_page``."""
    return templates().get_template("page.html").render(
        title=plain(results[0].sae.origin) if len(results) == 1 else f"{len(results)} sparse autoencoders",
        cards=[_card(result) for result in results],
        side_by_side=side_by_side_table(results, _value) if len(results) > 1 else None,
        differences=conditions_that_differ(results) if differences is None else differences,
        tables=tables,
        key=key,
        **drawn_figures([*figures, *figures_of(results)]),
    )  # fmt: skip


def render_figures(title: str, lead: str, drawn: Sequence[Figure]) -> str:
    """A page of figures only, with a title and one sentence."""
    return templates().get_template("figures_page.html").render(title=title, lead=lead, **drawn_figures(drawn))


def drawn_figures(drawn: Sequence[Figure], plotly_file: str | None = None) -> dict[str, Any]:
    """The template variables of ``base.html`` and ``figures.html`` for figures.

    Args:
        drawn: the figures.
        plotly_file: address of Plotly's script where pages share it (as those of a site do); by default the page holds it.
    """
    data = [{"id": each.key, "traces": each.traces, "layout": each.layout} for each in drawn]
    plotly = Markup(plotly_script() if drawn and plotly_file is None else "")
    return {"figures": drawn, "plotly": plotly, "plotly_file": plotly_file, "figure_data": script_json(data)}


def plotly_script() -> str:
    """Plotly's script, of the installed package."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def render_html_table(result: Result) -> str:
    """The scorecard as an HTML table, for notebooks."""
    return templates().get_template("card.html").render(card=_card(result))


def script_json(data: Any) -> Markup:
    """JSON that is safe inside a script element: no name in it can end the element or open a comment."""
    text = json.dumps(data, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def templates() -> Environment:
    """The templates of all pages; all values are escaped."""
    loader = ChoiceLoader([PackageLoader("saebench", f"{part}/templates") for part in ("report", "leaderboard", "viewer")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = breakable
    return environment


def asset(name: str) -> str:
    """The text of a style sheet or a script among the templates."""
    loader = templates().loader
    assert loader is not None
    return loader.get_source(templates(), name)[0]


def breakable(text: str) -> Markup:
    """A name, escaped, with optional line breaks after slashes and underscores."""
    return Markup(str(escape(text)).replace("/", "/<wbr>").replace("_", "_<wbr>"))


def _card(result: Result) -> dict[str, Any]:
    """The template variables of one scorecard."""
    sections = {"training": result.sae.training, "settings": result.settings, "seconds spent": result.stages}
    return {
        "name": plain(result.sae.origin),
        "facts": facts(result),
        "table": scorecard_table(result),
        "failures": [(plain(name), plain(message)) for name, message in result.failures.items()],
        "notices": [*(plain(each) for each in result.notices), *cautions(result)],
        "provenance": provenance(result),
        "sections": [(name, json.dumps(data, indent=1)) for name, data in sections.items() if data],
    }


def _value(line: Line | None) -> str:
    return "" if line is None else line.value
