"""One verdict on each metric from audits of several planted models: what one model says may be its own peculiarity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saebench.audit.output import check_whole, verdict_data
from saebench.errors import SaebenchError
from saebench.parsing import parse_json
from saebench.results.verdicts import Verdict

SAME = ("saebench", "thresholds_sha256", "sees_sha256", "audit", "tokens")
"""What audits have in common that can be put together."""


def agreed(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a metric: that of all audits, or ``use with care`` where they differ.

    A metric is thereby sound, and no evidence, only where every audit says so.
    """
    standings = list(dict.fromkeys(each.standing for each in verdicts))
    if len(standings) == 1:
        return verdicts[0]
    found = [f"{each.standing} ({each.lens})" if each.lens else each.standing for each in verdicts]
    doubt = next(each for each in verdicts if each.standing != "sound")
    sentence = f"Audits of {len(verdicts)} planted models differ: {', '.join(dict.fromkeys(found))}."
    return Verdict(doubt.metric, "use with care", doubt.lens, sentence)


def agreed_data(folders: Sequence[Path]) -> str:
    """The text of the package's data file of verdicts, from the ``audit.json`` of each folder.

    Raises:
        SaebenchError: there are fewer than two audits, one cannot be read or was quick, or they are not alike.
    """
    if len(folders) < 2:
        raise SaebenchError("Verdicts agree or differ between at least two audits: give two folders or more.")
    audits = [_read(folder) for folder in folders]
    for name in SAME:
        if len({json.dumps(each[name]) for each in audits}) > 1:
            raise SaebenchError(
                f"The audits differ in {name}: run them again with one version of saebench and its thresholds."
            )
    seeds = [each["seed"] for each in audits]
    if len(set(seeds)) < len(seeds):
        raise SaebenchError("Two of the audits have the same seed, and thereby the same planted model: use another --seed.")
    by_metric: dict[str, list[Verdict]] = {}
    for each in audits:
        for metric in each["metrics"]:
            by_metric.setdefault(metric["metric"], []).append(Verdict(**metric["verdict"]))
    partial = [metric for metric, its in by_metric.items() if len(its) < len(audits)]
    if partial:
        raise SaebenchError(f"Not every audit has a verdict on {partial[0]}: audit the same evaluators each time.")
    verdicts = [{"verdict": asdict(agreed(its))} for its in by_metric.values()]
    return verdict_data({**audits[0], "seeds": seeds, "metrics": verdicts})


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / "audit.json"
    try:
        found: Mapping[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        known = {name: found[name] for name in (*SAME, "seed", "quick", "metrics", "date")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaebenchError(f"{path} is not the result of `saebench audit planted`: give its folder.") from error
    check_whole(known)
    return known
