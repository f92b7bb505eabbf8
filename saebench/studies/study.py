"""The output of every study: a JSON file of its numbers and a page with its figures, both self-contained."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table
from rich.text import Text

from saebench.errors import SaebenchError, plain
from saebench.files import check_writable, put_in_place, write_text
from saebench.provenance import environment
from saebench.report.content import ARROWS, format_value
from saebench.report.figures import Figure
from saebench.report.metric_table import MetricGroup, MetricRow, MetricTable
from saebench.report.page import drawn_figures, templates
from saebench.results import CorpusRecord, Environment, JsonObject, Metric, ModelRecord, SaeRecord


class StudyResult(BaseModel):
    """The numbers of a study.

    Attributes:
        study: its name, which is also its files' name.
        question: what it asks, in one sentence.
        metrics: its numbers, each with unit, direction, n and error.
        details: curves and tables behind them.
        saes: the autoencoders it is about, where there are single ones; ``model`` and ``corpus`` where text was run.
        definitions: SHA-256 of the files that hold the papers' settings.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    schema_version: Literal[1] = 1
    study: str
    question: str
    created: str
    metrics: dict[str, Metric]
    details: JsonObject = Field(default_factory=dict)
    settings: JsonObject = Field(default_factory=dict)
    saes: list[SaeRecord] = Field(default_factory=list)
    model: ModelRecord | None = None
    corpus: CorpusRecord | None = None
    definitions: dict[str, str] = Field(default_factory=dict)
    environment: Environment


def make_study(
    name: str,
    question: str,
    metrics: Sequence[Metric],
    *,
    details: dict[str, Any],
    settings: dict[str, Any],
    definition: str,
    saes: Sequence[SaeRecord] = (),
    model: ModelRecord | None = None,
    corpus: CorpusRecord | None = None,
    device: torch.device | None = None,
) -> StudyResult:
    """Put a study's result together; ``definition`` names the file of the paper's settings."""
    return StudyResult(
        study=name,
        question=question,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics={metric.name: metric for metric in metrics},
        details=details,
        settings=settings,
        saes=list(saes),
        model=model,
        corpus=corpus,
        definitions={f"studies/{definition}": hashlib.sha256(_definition_text(definition).encode()).hexdigest()},
        environment=environment(device or torch.device("cpu")),
    )


def paper_settings(definition: str) -> dict[str, Any]:
    """The settings and published figures of a paper, such as ``leask2025``."""
    return tomllib.loads(_definition_text(definition))


def _definition_text(name: str) -> str:
    return files("saebench.studies").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def check_study(folder: Path, name: str) -> None:
    """Raise ``SaebenchError`` where the study's files cannot be written to ``folder``."""
    for suffix in ("json", "html"):
        check_writable(folder / f"{name}.{suffix}")


def write_study(result: StudyResult, figures: Sequence[Figure], folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.json`` and ``NAME.html``, each atomically.

    Returns:
        Their paths.

    Raises:
        SaebenchError: the folder cannot be written.
    """
    numbers, page = folder / f"{result.study}.json", folder / f"{result.study}.html"
    write_text(numbers, result.model_dump_json(indent=1) + "\n")
    write_text(page, render_study(result, figures))
    return numbers, page


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically.

    Raises:
        SaebenchError: the path cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        table.to_parquet(temporary, index=False)
        put_in_place(temporary, path)
    except OSError as error:
        raise SaebenchError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def render_study(result: StudyResult, figures: Sequence[Figure]) -> str:
    """The page, whole: it opens from a file, without a network."""
    text = None if result.corpus is None else f"{plain(result.corpus.name)}, {result.corpus.tokens_counted:,} tokens counted"
    about = [("Autoencoder", f"{plain(each.origin)} ({each.n_latents:,} latents)") for each in result.saes]
    about += [("Language model", plain(result.model.name))] if result.model else []
    about += [("Text", text)] if text else []
    settings = {"settings": result.settings, "definitions": result.definitions}
    return (
        templates()
        .get_template("study.html")
        .render(
            title=result.study.capitalize(),
            question=plain(result.question),
            about=about,
            table=MetricTable("Numbers of the study", ("Value", "Over"), (MetricGroup("", _rows(result)),), _KEY),
            settings=json.dumps(settings | {"environment": result.environment.model_dump(mode="json")}, indent=1),
            **drawn_figures(figures),
        )
    )


_KEY = "Value ± standard error, or [95 % interval]; ↓ lower is better, ↑ higher is better"


def _rows(result: StudyResult) -> tuple[MetricRow, ...]:
    return tuple(
        MetricRow(
            name=plain(metric.name),
            unit="" if metric.unit == "1" else plain(metric.unit),
            direction=metric.direction,
            description=plain(metric.description),
            note=None if metric.reason is None else plain(metric.reason),
            cells=((format_value(metric), "value"), (f"{metric.n:,} {plain(metric.n_unit)}", "soft")),
        )
        for metric in result.metrics.values()
    )


def study_table(result: StudyResult) -> Table:
    """The metrics for a terminal."""
    table = Table("Metric", "Value", "Unit", "Over", show_edge=False)
    for metric in result.metrics.values():
        name = f"{plain(metric.name)} {ARROWS[metric.direction]}".rstrip()
        value = format_value(metric) + (f" ({plain(metric.reason)})" if metric.reason else "")
        unit = "" if metric.unit == "1" else plain(metric.unit)
        table.add_row(Text(name), Text(value), Text(unit), f"{metric.n:,} {plain(metric.n_unit)}")
    return table
