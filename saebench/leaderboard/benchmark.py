"""``benchmark.toml``: the conditions of every submission to a leaderboard, so that its rows can be compared."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from saebench.definitions import KINDS, definition_hash
from saebench.errors import SaebenchError
from saebench.leaderboard.files import BENCHMARK, BadFile, Strict, in_words, read_bytes
from saebench.parsing import parse_toml
from saebench.results import EvaluatorResult, Result, canonical_hash
from saebench.results.statistics import read_columns

DEFINITION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

CONTROLS = ("random", "pca", "reinitialised")
"""The controls: a random dictionary, a PCA of the same L0, the model with random weights."""
REFERENCE = {
    "downstream": {name: name for name in ("ce_clean", "ce_zero_ablated", "ce_mean_ablated")},
    "core": {"ce_clean": "ce_loss_without_sae", "ce_zero_ablated": "ce_loss_with_ablation"},
}
"""By evaluator: losses that do not depend on the autoencoder, and the metrics that state them."""
VARIANCES = {"reconstruction": ("variance", "unit_variance"), "core": ("variance",)}
"""By evaluator: sums by row that do not depend on the autoencoder, per token."""
REFERENCE_OF = ("downstream", "reconstruction", "core")
REFERENCE_TOLERANCE = 1e-3
"""Relative: the same model on the same text gives the same loss, up to the rounding of different machines."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelRule(Strict):
    """The language model."""

    name: str
    weights_sha256: Sha256
    dtype: str


class CorpusRule(Strict):
    """The text."""

    name: str
    revision: str | None = None
    sha256: Sha256
    tokens: int = Field(gt=0)
    context: int = Field(gt=1)
    bos: Literal["row", "text", "none"]
    excluded: str


class EvaluatorRule(Strict):
    """An evaluator of the benchmark, with its settings."""

    version: int
    settings: Sha256 = Field(description="canonical hash of its settings and options")
    required: bool = True
    controls: tuple[str, ...] | None = Field(default=None, description="required for it; by default the benchmark's")


class Benchmark(Strict):
    """A leaderboard's conditions.

    Attributes:
        d_in, d_out: widths of the hooks.
        reference: losses of the clean and the ablated model in nats, and variances of the activations per token: they do not
            depend on the autoencoder.
        controls: required of every submission, for each evaluator whose rule names no others.
    """

    benchmark_version: Literal[1]
    title: str = Field(min_length=1, max_length=120)
    hook_in: str
    hook_out: str
    d_in: int = Field(gt=0)
    d_out: int = Field(gt=0)
    seed: int
    controls: tuple[str, ...] = CONTROLS
    model: ModelRule
    corpus: CorpusRule
    evaluators: dict[str, EvaluatorRule] = Field(min_length=1)
    reference: dict[str, float] = Field(default_factory=dict)
    definitions: dict[str, Sha256] = Field(default_factory=dict)

    def controls_of(self, evaluator: str) -> tuple[str, ...]:
        """The controls that an evaluator needs."""
        rule = self.evaluators.get(evaluator)
        return self.controls if rule is None or rule.controls is None else rule.controls


def read_benchmark(folder: Path) -> Benchmark:
    """The benchmark of a leaderboard's folder.

    Raises:
        BadFile: it is missing or invalid.
    """
    path = folder / BENCHMARK
    if not path.exists():
        raise BadFile("it is missing: a leaderboard needs one")
    try:
        return Benchmark.model_validate(parse_toml(read_bytes(path).decode("utf-8")))
    except ValidationError as error:
        raise BadFile(f"it does not follow the schema ({in_words(error)[0]})") from error
    except ValueError as error:
        raise BadFile(f"it is not TOML ({error})") from error


def benchmark_of(result: Result, title: str, controls: tuple[str, ...] = CONTROLS) -> Benchmark:
    """The benchmark that a result followed, with every evaluator it ran required.

    An evaluator that the result has with some of the controls alone needs these.

    Raises:
        SaebenchError: the language model's weights were not hashed.
    """
    if result.model.weights_sha256 is None:
        raise SaebenchError("The result does not hold the hash of the language model's weights: a benchmark needs it.")
    corpus = result.corpus
    return Benchmark(
        benchmark_version=1,
        title=title,
        hook_in=result.sae.hook_in,
        hook_out=result.sae.hook_out,
        d_in=result.sae.d_in,
        d_out=result.sae.d_out,
        seed=result.seed,
        controls=controls,
        model=ModelRule(name=result.model.name, weights_sha256=result.model.weights_sha256, dtype=result.model.dtype),
        corpus=CorpusRule.model_validate({name: getattr(corpus, name) for name in CorpusRule.model_fields}),
        evaluators={
            name: EvaluatorRule(
                version=found.version, settings=settings_hash(result, name), controls=_own_controls(result, name, controls)
            )
            for name, found in result.evaluators.items()
        },
        reference={name: float(f"{value:.6g}") for name, value in _whole_reference(result.evaluators).items()},
        definitions=dict(result.definitions),
    )


def _own_controls(result: Result, evaluator: str, controls: tuple[str, ...]) -> tuple[str, ...] | None:
    """The controls of an evaluator that lacks some which other evaluators of the result have; else None."""
    its = tuple(name for name in controls if name not in result.controls or evaluator in result.controls[name])
    return None if its == controls else its


def settings_hash(result: Result, evaluator: str) -> str:
    """Canonical hash of an evaluator's settings and of the options that they do not repeat: defaults may be named or not."""
    options, settings = result.settings.get("options", {}), result.evaluators[evaluator].settings
    given = options.get(evaluator, {}) if isinstance(options, dict) else {}
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if settings.get(name) != value}
    return canonical_hash({"settings": settings, "options": given})


def mismatches(benchmark: Benchmark, result: Result) -> list[str]:
    """Differences of a result from the benchmark, as sentences without a full stop."""
    wanted: dict[str, Any] = {
        "model.weights_sha256": benchmark.model.weights_sha256,
        "model.dtype": benchmark.model.dtype,
        "sae.hook_in": benchmark.hook_in,
        "sae.hook_out": benchmark.hook_out,
        "sae.d_in": benchmark.d_in,
        "sae.d_out": benchmark.d_out,
        "seed": benchmark.seed,
        **{f"corpus.{name}": value for name, value in benchmark.corpus.model_dump().items()},
    }
    problems = [
        f"{path} is {_short(found)}, the benchmark's is {_short(value)}"
        for path, value in wanted.items()
        if (found := _get(result, path)) != value
    ]
    return [*problems, *_evaluator_mismatches(benchmark, result), *_reference_mismatches(benchmark, result)]


def definition_problems(benchmark: Benchmark) -> list[str]:
    """Definitions of this checkout that differ from those of the benchmark."""
    problems = []
    for path, sha256 in benchmark.definitions.items():
        kind, _, name = path.rpartition("/")
        if kind not in KINDS or not DEFINITION_NAME.fullmatch(name):
            problems.append(f"it names a definition {path!r}; those are {', '.join(f'{each}/NAME' for each in KINDS)}")
            continue
        try:
            current = definition_hash(kind, name)
        except SaebenchError as error:
            problems.append(str(error).removesuffix("."))
            continue
        if current != sha256:
            problems.append(f"the definition {path} has changed since: evaluate again, or restore it")
    return problems


def to_toml(benchmark: Benchmark) -> str:
    """The text of ``benchmark.toml``."""
    tables: list[str] = []
    top = {
        name: value for name, value in benchmark.model_dump().items() if not isinstance(value, dict) and value is not None
    }
    tables.append("# What every submission to this leaderboard measures; `saebench leaderboard check` holds them to it.\n")
    tables[0] += "".join(f"{name} = {_toml(value)}\n" for name, value in top.items())
    sections = {"model": benchmark.model.model_dump(), "corpus": benchmark.corpus.model_dump()}
    sections |= {f"evaluators.{_key(name)}": rule.model_dump() for name, rule in benchmark.evaluators.items()}
    sections |= {name: given for name in ("reference", "definitions") if (given := getattr(benchmark, name))}
    for name, table in sections.items():
        lines = [f"{_key(key)} = {_toml(value)}" for key, value in table.items() if value is not None]
        tables.append(f"[{name}]\n" + "\n".join(lines) + "\n")
    return "\n".join(tables)


def _evaluator_mismatches(benchmark: Benchmark, result: Result) -> list[str]:
    problems = [
        f"the evaluator {name} is missing"
        for name, rule in benchmark.evaluators.items()
        if rule.required and name not in result.evaluators
    ]
    for name, found in result.evaluators.items():
        rule = benchmark.evaluators.get(name)
        if rule is None:
            problems.append(f"the evaluator {_short(name)} is not part of the benchmark")
        elif found.version != rule.version:
            problems.append(f"the evaluator {name} is of version {found.version}, the benchmark's is {rule.version}")
        elif settings_hash(result, name) != rule.settings:
            problems.append(f"the evaluator {name} was run with other settings than the benchmark's")
    partial = not benchmark.evaluators.keys() <= result.evaluators.keys()  # it then needs not all of the definitions
    for name, sha256 in benchmark.definitions.items():
        if name not in result.definitions and partial:
            continue
        if result.definitions.get(name) != sha256:
            problems.append(f"the definition {name} is {_short(result.definitions.get(name))}, not {_short(sha256)}")
    return problems


def _reference(evaluators: Mapping[str, EvaluatorResult], evaluator: str) -> dict[str, float]:
    """What an evaluator found that does not depend on the autoencoder: losses in nats, variances per token."""
    its = evaluators.get(evaluator)
    if its is None:
        return {}
    stated = {name: its.metrics[key].value for name, key in REFERENCE.get(evaluator, {}).items() if key in its.metrics}
    found = {name: value for name, value in stated.items() if value is not None}
    try:
        if evaluator in VARIANCES:
            tokens, variance = read_columns(its.details.get("by_row"), ["tokens", "variance"]).sum(dim=0).tolist()
            found["variance"] = variance / tokens
        if "unit_variance" in VARIANCES.get(evaluator, ()):
            found["unit_variance"] = float(its.details["unit_variance"]) / tokens
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        pass  # the check of samples says that they are missing
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _whole_reference(evaluators: Mapping[str, EvaluatorResult]) -> dict[str, float]:
    """What all evaluators found that does not depend on the autoencoder, each number from the first that has it."""
    found: dict[str, float] = {}
    for evaluator in REFERENCE_OF:
        for name, value in _reference(evaluators, evaluator).items():
            found.setdefault(name, value)
    return found


def _reference_mismatches(benchmark: Benchmark, result: Result) -> list[str]:
    """What does not depend on the autoencoder, where it differs from the benchmark's; controls share it."""
    problems = []
    same_model = {f" of the control {name!r}": each for name, each in result.controls.items() if name in ("random", "pca")}
    for where, evaluators in {"": result.evaluators, **same_model}.items():
        for evaluator in (name for name in REFERENCE_OF if name in evaluators):
            found = _reference(evaluators, evaluator)
            for name, words in _reference_words(evaluator).items():
                value = benchmark.reference.get(name)
                if value is not None and abs(found.get(name, math.inf) - value) > REFERENCE_TOLERANCE * abs(value):
                    shown = _short(found.get(name))
                    problems.append(f"{words}{where} is {shown}, but the model's own, on this text, is {value:g}")
    return problems


def _reference_words(evaluator: str) -> dict[str, str]:
    """What an evaluator states of the benchmark's reference, by its name there, in words."""
    losses = {name: f"{evaluator}.{key}" for name, key in REFERENCE.get(evaluator, {}).items()}
    of = "" if evaluator == "reconstruction" else f" of {evaluator}"
    words = {name: f"the activations' {name.replace('_', ' ')} per token{of}" for name in VARIANCES.get(evaluator, ())}
    return losses | words


def _get(result: Result, path: str) -> Any:
    found: Any = result
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else f"{text[:16]}…"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _toml(value: Any) -> str:
    """A scalar or a list of strings: JSON's way of writing these is TOML's too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=True)
