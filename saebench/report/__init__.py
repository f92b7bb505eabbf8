"""Reports of results: tables in the terminal, in Markdown and in notebooks, and a page for the browser."""

from saebench.report.page import render_html_table, write_page
from saebench.report.tables import render_markdown, render_terminal, render_text

__all__ = ["render_html_table", "render_markdown", "render_terminal", "render_text", "write_page"]
