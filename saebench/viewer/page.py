"""The single page of the viewer: its script loads data from the server or from files in the same folder."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from saebench.report.page import script_json


def asset(name: str) -> str:
    """A file of the page."""
    return files("saebench").joinpath("viewer", "templates", name).read_text(encoding="utf-8")


def render_page(name: str, static: dict[str, Any] | None = None) -> str:
    """The page: with its style and script at their own addresses, or (with ``static``, its overview) inlined."""
    return _templates().get_template("view.html").render(
        name=name,
        static=None if static is None else script_json(static),
        css=Markup(asset("view.css")),
        js=Markup(asset("view.js")),
    )  # fmt: skip


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("saebench", "viewer/templates"), autoescape=True, trim_blocks=True)
