"""A result for use in Python: numbers by name, a table, a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saebench.report.page import render_html_table, write_page
from saebench.report.tables import render_text
from saebench.results import Metric, Result, write_result
from saebench.results.cards import to_frame

if TYPE_CHECKING:
    import pandas


class Scorecard:
    """The return value of ``saebench.evaluate`` for one autoencoder.

    Attributes:
        result: the full result, as it is written to a file.
    """

    def __init__(self, result: Result) -> None:
        self.result = result

    def __getitem__(self, path: str) -> float | None:
        """The value of a metric by ``evaluator.name``; None where it is undefined."""
        return self.result.metric(path).value

    def metric(self, path: str) -> Metric:
        """A metric with its error, count and unit, by ``evaluator.name``."""
        return self.result.metric(path)

    def frame(self) -> pandas.DataFrame:
        """All metrics, one row each, indexed by evaluator and metric."""
        return to_frame([self.result]).drop(columns="sae").set_index(["evaluator", "metric"])

    def save(self, path: str | Path) -> None:
        """Write the result file."""
        write_result(self.result, path)

    def report(self, path: str | Path) -> None:
        """Write a self-contained page for the browser."""
        write_page([self.result], path)

    def __repr__(self) -> str:
        return render_text(self.result)

    def _repr_html_(self) -> str:
        return render_html_table(self.result)
