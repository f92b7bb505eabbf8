"""The result file: what was measured, on which data, with which software, and how precisely.

Every number has a name, a unit and a direction. Undefined values are null, with a reason; a result file has no NaN or
infinity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from saebench.errors import SaebenchError, plain, shortened
from saebench.files import write_text
from saebench.parsing import parse_json

SCHEMA_VERSION = 1
OPTIONS_OF = "options of "
LARGEST_FILE = 50 * 2**20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


def _all_finite(data: Any) -> Any:
    """Reject values that JSON cannot represent: free-form data reaches pages and hashes, and a NaN would become null."""
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"has values that JSON cannot represent ({error})") from error
    return data


Count = Annotated[int, Field(ge=0, le=2**53)]
Width = Annotated[int, Field(gt=0, le=2**31)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_all_finite)]


class Metric(_Strict):
    """One number with its unit, direction and precision."""

    name: str
    version: int = Field(default=1, description="version of the metric's definition")
    value: float | None
    unit: str
    direction: Literal["lower", "higher", "none"] = Field(description="which is better")
    n: Count = Field(description="the number of n_unit behind the value")
    n_unit: str = "tokens"
    standard_error: float | None = Field(default=None, ge=0)
    interval: tuple[float, float] | None = Field(default=None, description="95 % interval, where one was computed")
    reason: str | None = Field(default=None, description="why the value is null")
    description: str = ""

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> Metric:
        if (self.value is None) != (self.reason is not None):
            raise ValueError(f"{self.name}: a null value needs a reason, and only a null value has one")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"{self.name}: the interval ends before it begins")
        return self


class EvaluatorResult(_Strict):
    """The results of one evaluator."""

    name: str
    version: int
    metrics: dict[str, Metric]
    details: JsonObject = Field(default_factory=dict, description="curves, histograms and tables behind the metrics")
    settings: JsonObject = Field(default_factory=dict)
    duration_seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _keys_are_names(self) -> EvaluatorResult:
        wrong = [key for key, metric in self.metrics.items() if key != metric.name]
        if wrong:
            raise ValueError(f"{self.name}: metrics have other keys than their names ({', '.join(wrong)})")
        return self


class SaeRecord(_Strict):
    """The autoencoder that was evaluated."""

    origin: str = Field(description="as the user gave it, without folders of the machine")
    format: str
    architecture: str
    weights_sha256: str | None
    d_in: Width
    d_out: Width
    n_latents: Width
    activation: JsonObject
    scaling: str
    hook_in: str
    hook_out: str
    training: JsonObject = Field(default_factory=dict)
    assumed: dict[str, str] = Field(
        default_factory=dict, description="what the checkpoint leaves open and an option or a convention decided"
    )


class ModelRecord(_Strict):
    """The language model."""

    name: str
    revision: str | None
    weights_sha256: str | None
    dtype: str
    n_parameters: Count


class CorpusRecord(_Strict):
    """The text, and which positions counted."""

    name: str
    revision: str | None
    sha256: str = Field(description="of the token ids and of the positions that count")
    rows: Count
    context: Count
    tokens: Count
    tokens_counted: Count
    tokens_requested: int | None
    tokens_dropped: int = Field(default=0, description="after the last complete row")
    bos: str
    separator: int | None = Field(default=None, description="the token between two documents")
    shuffle_seed: int | None = Field(default=None, description="where rows were sampled from all of the text")
    excluded: str = Field(description="the rule, in words")
    documents: Count
    documents_null: int = Field(default=0, description="rows of the source without text, skipped")


class Reached(_Strict):
    """What a metric reached in an evaluation that goes on until standard errors are as small as requested."""

    target: float = Field(gt=0, description="the largest relative standard error allowed")
    relative_error: float | None = Field(ge=0, description="at the last look; null where undefined")
    tokens: Count | None = Field(description="of text at the look from which on the target was met; null where it was not")


class Environment(_Strict):
    """The software and hardware of the run."""

    saebench: str
    commit: str | None = Field(description="of saebench's own checkout, where it runs from one")
    python: str
    platform: str
    device: str
    threads: int
    libraries: dict[str, str]


class Source(_Strict):
    """The run that some evaluators of a merged result come from."""

    created: str
    suite: str | None
    evaluators: tuple[str, ...]
    environment: Environment


class Result(_Strict):
    """A result file."""

    schema_version: Literal[1] = 1
    created: str = Field(description="UTC, ISO 8601")
    complete: bool = Field(description="whether every requested evaluator has finished")
    sae: SaeRecord
    model: ModelRecord
    corpus: CorpusRecord
    seed: int
    settings: JsonObject = Field(description="everything that determines the numbers, besides the sections above")
    definitions: dict[str, str] = Field(default_factory=dict, description="SHA-256 of the definition files that were used")
    evaluators: dict[str, EvaluatorResult]
    failures: dict[str, str] = Field(default_factory=dict, description="evaluators that failed, and how")
    controls: dict[str, dict[str, EvaluatorResult]] = Field(
        default_factory=dict, description="the same evaluators on controls, which should score badly"
    )
    precision: dict[str, Reached] = Field(
        default_factory=dict, description="by evaluator.name, where rows were evaluated until errors were small enough"
    )
    stages: dict[str, float] = Field(default_factory=dict, description="seconds spent in each stage")
    notices: list[str] = Field(default_factory=list, description="where a slower or other path was taken, and why")
    environment: Environment
    sources: list[Source] = Field(
        default_factory=list, description="of a merged result: the runs of its evaluators; settings.suite is then absent"
    )

    @model_validator(mode="after")
    def _one_source_each(self) -> Result:
        named = [name for source in self.sources for name in source.evaluators]
        if self.sources and sorted(named) != sorted(self.evaluators):
            raise ValueError("sources must name every evaluator once")
        return self

    def runs(self) -> list[Source]:
        """The runs that its evaluators come from: ``sources``, or the one run that it is of."""
        suite = self.settings.get("suite")
        run = Source(
            created=self.created,
            suite=None if suite is None else str(suite),
            evaluators=tuple(self.evaluators),
            environment=self.environment,
        )
        return self.sources or [run]

    def metric(self, path: str) -> Metric:
        """A metric by ``evaluator.name``, such as ``reconstruction.normalised_mse``.

        Raises:
            SaebenchError: the result has no such metric.
        """
        evaluator, _, name = path.partition(".")
        if evaluator not in self.evaluators or name not in self.evaluators[evaluator].metrics:
            there = [f"{key}.{each}" for key, found in self.evaluators.items() for each in found.metrics]
            raise SaebenchError(f"The result has no metric {path!r}; it has: {', '.join(there) or 'none'}.")
        return self.evaluators[evaluator].metrics[name]

    def identity(self) -> dict[str, Any]:
        """What must agree for a run to resume another: autoencoder, model, text, seed, and evaluators' options."""
        options = self.settings.get("options", {})
        return {
            "sae.weights_sha256": self.sae.weights_sha256,
            "sae.activation": self.sae.activation,
            "sae.assumed": self.sae.assumed,
            "sae.hook_in": self.sae.hook_in,
            "sae.hook_out": self.sae.hook_out,
            "model": self.model.model_dump(),
            "corpus.sha256": self.corpus.sha256,
            "seed": self.seed,
            **{f"settings.{key}": value for key, value in self.settings.items() if key not in ("options", "controls")},
            **{f"{OPTIONS_OF}{name}": options.get(name, {}) for name in {*options, *self.evaluators}},
        }


def write_result(result: Result, path: str | Path) -> None:
    """Write a result file atomically: a reader sees the old file or the new one, never a partial one.

    Raises:
        SaebenchError: the path cannot be written.
    """
    write_text(Path(path), result.model_dump_json(indent=1) + "\n")


def read_result(path: str | Path) -> Result:
    """Read a result file, or the result that a leaderboard's entry holds.

    Raises:
        SaebenchError: it is missing, too large, not JSON, or does not follow the schema.
    """
    problems, result = _read(Path(path))
    if result is None:
        raise SaebenchError(f"{path} is not a valid result file: {problems[0]}")
    return result


def validate(path: str | Path) -> list[str]:
    """All problems of a result file, as sentences; empty where it is valid."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[list[str], Result | None]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            return [f"it is larger than {LARGEST_FILE >> 20} MiB."], None
        text = path.read_text(encoding="utf-8")
        data = parse_json(text, parse_constant=_refuse_constant)
    except OSError as error:
        return [f"it cannot be read ({error.strerror})."], None
    except UnicodeDecodeError:
        return ["it is not UTF-8 text."], None
    except json.JSONDecodeError as error:
        return [f"it is not JSON (line {error.lineno}: {error.msg})."], None
    except ValueError as error:
        return [f"{error}."], None
    if isinstance(data, dict) and "submission_version" in data and isinstance(data.get("result"), dict):
        data = data["result"]
        text = json.dumps(data)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or version is True:
        found = shortened(repr(version), 80)
        return [f"its schema_version is {found}; this version of saebench reads {SCHEMA_VERSION}."], None
    try:
        result = Result.model_validate_json(text, strict=True)
        problems = _without_content(result)
        return problems, None if problems else result
    except ValidationError as error:
        return [_in_words(each["loc"], each["msg"]) for each in error.errors()], None


def _without_content(result: Result) -> list[str]:
    """What a file must hold to be of use; a result in the making need not."""
    options = result.settings.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(each, dict) for each in options.values()):
        return ["settings.options must give an object for each evaluator."]
    return [] if result.evaluators or result.failures else ["it holds no evaluator's result and no failure."]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not JSON: undefined values are null, with a reason")


def _in_words(location: tuple[int | str, ...], message: str) -> str:
    return shortened(plain(f"{'.'.join(map(str, location)) or 'the file'}: {message.removeprefix('Value error, ')}."))


def canonical_hash(data: Any) -> str:
    """SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()


def check_same_run(earlier: Result, now: dict[str, Any], evaluators: Collection[str], path: str | Path) -> None:
    """Raise ``SaebenchError`` where an earlier result is merged, or was made with other settings than ``now``, naming them.

    Args:
        earlier: the result; ``path``: where it was read.
        now: the ``identity`` of the run that would resume it.
        evaluators: of that run. Only options of evaluators that both have are compared.
    """
    if earlier.sources:
        raise SaebenchError(f"{path} is merged from several results: resume those, and merge them again.")
    before, current = (
        {key: value for key, value in json.loads(json.dumps(identity)).items() if not key.startswith(OPTIONS_OF)}
        | {
            f"{OPTIONS_OF}{name}": identity.get(f"{OPTIONS_OF}{name}", {})
            for name in earlier.evaluators.keys() & set(evaluators)
        }
        for identity in (earlier.identity(), now)
    )
    different = sorted(key for key in before.keys() | current.keys() if before.get(key) != current.get(key))
    if different:
        raise SaebenchError(
            f"{path} was made with other settings ({', '.join(different)}): use the same settings, or write to another file."
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of result files."""
    schema = Result.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
