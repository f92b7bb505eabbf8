"""What an audit writes: ``audit.json`` with every number, ``audit.html`` with one page of figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from saebench.audit.figures import audit_figures
from saebench.audit.scores import Score
from saebench.audit.thresholds import Thresholds
from saebench.audit.verdicts import Audited
from saebench.errors import SaebenchError
from saebench.files import write_text
from saebench.report.page import render_figures
from saebench.version import __version__


def as_json(
    audited: Sequence[Audited], thresholds: Thresholds, facts: Mapping[str, Any], failures: Mapping[str, str]
) -> dict[str, Any]:
    """An audit as JSON data. ``facts``: how it was made, such as its seed; ``failures``: evaluators that failed."""
    return {
        "saebench": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "thresholds_sha256": thresholds.sha256,
        "sees_sha256": thresholds.sees_sha256,
        **facts,
        "failures": dict(failures),
        "better_than_oracle": {each.metric: list(each.better_than_oracle) for each in audited if each.better_than_oracle},
        "metrics": [
            {
                "metric": each.metric,
                "verdict": asdict(each.verdict),
                "lenses": {lens: _finite(asdict(found)) for lens, found in each.findings.items()},
            }
            for each in audited
        ],
    }


def write_audit(
    audited: Sequence[Audited], scores: Sequence[Score], data: Mapping[str, Any], folder: Path, about: str = ""
) -> None:
    """Write both files into ``folder``; ``about`` says on the page what was audited.

    Raises:
        SaebenchError: no metric was audited, or the folder cannot be written.
    """
    if not audited:
        raise SaebenchError("No metric with a value and a direction was found, so that there is nothing to audit.")
    write_text(folder / "audit.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    rule = "Thresholds were committed before any lens was run. A lens without data is not known."
    lead = f"{about} {len(audited)} metrics. {rule}"
    write_text(folder / "audit.html", render_figures("Audit of metrics", lead.strip(), audit_figures(audited, scores)))


def verdict_data(data: Mapping[str, Any]) -> str:
    """The text of the package's data file of verdicts, from an audit's JSON data; ``seeds``, if it has any, are kept.

    Raises:
        SaebenchError: the audit was a quick one.
    """
    check_whole(data)
    head = {name: data[name] for name in ("saebench", "date", "thresholds_sha256", "seeds") if name in data}
    return json.dumps({**head, "verdicts": [each["verdict"] for each in data["metrics"]]}, indent=1) + "\n"


def check_whole(data: Mapping[str, Any]) -> None:
    """Raise ``SaebenchError`` where an audit was a quick one."""
    if data.get("quick"):
        raise SaebenchError("A quick audit gives no verdicts that the package could carry: run it without --quick.")


def _finite(value: Any) -> Any:
    """JSON data without NaN and infinity, rounded to six digits."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
