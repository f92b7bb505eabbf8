"""Results of one autoencoder as one result: evaluators of several suites, each with the run that it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.files import check_writable
from saebench.results.schema import OPTIONS_OF, EvaluatorResult, Result, read_result, write_result

OF_A_RUN = ("settings.suite", OPTIONS_OF)
"""What results may differ in: each evaluator keeps its own."""
BY_NAME = ("definitions", "evaluators", "failures", "precision")
"""The sections whose entries are put together."""


def merge_files(files: Sequence[Path], out: Path) -> Result:
    """Read results, merge them and write the merged one.

    Raises:
        SaebenchError: a file is no result, they cannot be merged, or ``out`` is one of them or cannot be written.
    """
    if out.resolve() in {file.resolve() for file in files}:
        raise SaebenchError(f"{out} is one of the results to merge: give another file with --out.")
    check_writable(out)
    found = merged({str(file): read_result(file) for file in files})
    write_result(found, out)
    return found


def merged(results: Mapping[str, Result]) -> Result:
    """One result with the evaluators of all, and with ``sources``.

    Args:
        results: at least two of one autoencoder, by the names of their files.

    Raises:
        SaebenchError: there are fewer, their autoencoder, model, text, seed, definitions or controls differ, or two have the
            same evaluator.
    """
    if len(results) < 2:
        raise SaebenchError("Merging needs two results or more, in different files.")
    for name, result in results.items():
        if result.sae.weights_sha256 is None:
            raise SaebenchError(
                f"{name} does not hold the hash of the autoencoder's weights, without which it cannot be merged."
            )
    for (name, one), (other, two) in combinations(results.items(), 2):
        _check_together(name, one, other, two)
    every = list(results.values())
    first = every[0]
    settings = _joined(result.settings for result in every) | {"options": _joined(map(_options, every))}
    settings.pop("suite", None)
    if controls := _joined(map(_made_controls, every)):
        settings["controls"] = controls
    return first.model_copy(
        update={
            "created": max(result.created for result in every),
            "complete": all(result.complete for result in every),
            "settings": settings,
            **{name: _joined(getattr(result, name) for result in every) for name in BY_NAME},
            "controls": _controls(every),
            "stages": _seconds(every),
            "notices": list(dict.fromkeys(notice for result in every for notice in result.notices)),
            "sources": [source for result in every for source in result.runs()],
        }
    )


def _check_together(name: str, one: Result, other: str, two: Result) -> None:
    """Raise ``SaebenchError`` where two results cannot be parts of one."""
    first, second = _conditions(one), _conditions(two)
    different = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    for section, its, others in (
        ("definitions", one.definitions, two.definitions),
        ("settings.controls", _made_controls(one), _made_controls(two)),
    ):
        different |= {f"{section}.{key}" for key in its.keys() & others.keys() if its[key] != others[key]}
    if different:
        raise SaebenchError(f"{name} and {other} cannot be merged: they differ in {', '.join(sorted(different))}.")
    shared = sorted(_evaluators(one) & _evaluators(two))
    if shared:
        raise SaebenchError(f"{name} and {other} both have {', '.join(shared)}: an evaluator can come from one result only.")


def _conditions(result: Result) -> dict[str, Any]:
    """What must be the same."""
    return {key: value for key, value in result.identity().items() if not key.startswith(OF_A_RUN)}


def _evaluators(result: Result) -> set[str]:
    return {*result.evaluators, *(name for found in result.controls.values() for name in found)}


def _made_controls(result: Result) -> dict[str, Any]:
    return dict(result.settings.get("controls", {}))


def _options(result: Result) -> dict[str, Any]:
    """The options of the evaluators that it has, or tried."""
    options = result.settings.get("options", {})
    return {name: given for name, given in options.items() if name in result.evaluators or name in result.failures}


def _joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _controls(results: Sequence[Result]) -> dict[str, dict[str, EvaluatorResult]]:
    names = dict.fromkeys(name for result in results for name in result.controls)
    return {name: _joined(result.controls.get(name, {}) for result in results) for name in names}


def _seconds(results: Sequence[Result]) -> dict[str, float]:
    """Seconds by stage, summed."""
    stages = dict.fromkeys(stage for result in results for stage in result.stages)
    return {stage: round(sum(result.stages.get(stage, 0.0) for result in results), 3) for stage in stages}
