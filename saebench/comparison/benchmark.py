"""The conditions of a measurement: all that must agree for two results to be compared directly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from saebench.errors import SaebenchError
from saebench.results import Result

LONGEST_VALUE = 40
NOT_CONDITIONS = ("options", "controls")
"""Settings that are compared evaluator by evaluator, or that add numbers without changing any."""


def benchmark_identity(result: Result) -> dict[str, Any]:
    """The conditions of a measurement by name, without the autoencoder itself.

    Conditions of an evaluator or a definition are included only where the result used it.
    """
    model, corpus = result.model, result.corpus
    found: dict[str, Any] = {
        "model": model.weights_sha256 or f"{model.name}@{model.revision}",
        "model.dtype": model.dtype,
        "hook_in": result.sae.hook_in,
        "hook_out": result.sae.hook_out,
        "corpus.sha256": corpus.sha256,
        "corpus.tokens": corpus.tokens,
        "corpus.context": corpus.context,
        "seed": result.seed,
    }
    options = result.settings.get("options", {})
    for name, evaluator in result.evaluators.items():
        found[f"evaluators.{name}.version"] = evaluator.version
        found[f"evaluators.{name}.settings"] = {**evaluator.settings, **options.get(name, {})}
        found |= {f"metrics.{name}.{key}.version": metric.version for key, metric in evaluator.metrics.items()}
    others = {f"settings.{key}": value for key, value in result.settings.items() if key not in NOT_CONDITIONS}
    return found | others | {f"definitions.{name}": sha256 for name, sha256 in result.definitions.items()}


def differing_fields(results: Sequence[Result]) -> dict[str, list[str]]:
    """The conditions in which results differ, each with the values found, in the order of the results that have it."""
    identities = [benchmark_identity(result) for result in results]
    if len({identity["model"] for identity in identities}) > 1 and not all(each.model.weights_sha256 for each in results):
        for identity, result in zip(identities, results, strict=True):  # some hashes are unknown: names are compared instead
            identity["model"] = f"{result.model.name}@{result.model.revision}"
    names = dict.fromkeys(name for identity in identities for name in identity)
    found = {}
    for name in names:
        values = [_in_words(identity[name]) for identity in identities if name in identity]
        if len(set(values)) > 1:
            found[name] = list(dict.fromkeys(values))
    return found


def require_one_benchmark(results: Sequence[Result], force: bool) -> list[str]:
    """The fields in which the results differ, each with its values; none where they are of one benchmark.

    Raises:
        SaebenchError: they differ and ``force`` is not set.
    """
    different = [f"{name} ({' / '.join(map(_short, values))})" for name, values in differing_fields(results).items()]
    if different and not force:
        shown = ", ".join(different[:6]) + (f" and {len(different) - 6} more" if len(different) > 6 else "")
        raise SaebenchError(
            f"These results are of different benchmarks; they differ in {shown}: compare results of one benchmark, or "
            "use --force to show them side by side without verdicts."
        )
    return different


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(text: str) -> str:
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return f"{text[:12]}…"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
