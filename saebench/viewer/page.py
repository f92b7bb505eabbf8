"""The one page that shows everything: filled in by its script, from the server or from files beside it."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from saebench.report.page import asset, script_json, templates

STYLE, SCRIPT = "style.css", "view.js"
"""The page's files, as the server serves them."""


def render_page(name: str, static: dict[str, Any] | None = None) -> str:
    """The page: with its style and script at their own addresses, or (with ``static``, its overview) inside it."""
    data = None if static is None else script_json(static)
    return templates().get_template("view.html").render(title=name, name=name, static=data, js=Markup(asset(SCRIPT)))
