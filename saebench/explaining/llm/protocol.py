"""The protocol of ``explain/llm.toml`` and the prompt templates, read and rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from saebench.definitions import definition_folder, definition_hash, load_definition
from saebench.errors import SaebenchError
from saebench.explaining.llm.endpoint import Prompt, Sampling

TestName = Literal["detection", "fuzzing", "simulation", "intruder"]
TESTS: tuple[TestName, ...] = ("detection", "fuzzing", "simulation", "intruder")
KINDS = ("explanation", *TESTS)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WindowSection(_Section):
    """Text shown around an activation, and its marks."""

    before: NonNegativeInt
    after: NonNegativeInt
    mark_share: float = Field(gt=0, le=1)
    open: str = Field(min_length=1)
    close: str = Field(min_length=1)

    @property
    def size(self) -> int:
        """Tokens in a whole window."""
        return self.before + 1 + self.after


class ExplainerSection(_Section):
    """Windows shown to the explainer."""

    top: NonNegativeInt
    quantiles: PositiveInt
    each: NonNegativeInt


class ScoringSection(_Section):
    """Held-out windows."""

    quantiles: PositiveInt
    each: PositiveInt
    inactive: PositiveInt


class BatchSection(_Section):
    """Windows in one question."""

    batch: PositiveInt


class SimulationSection(_Section):
    """Windows to simulate, and the scale."""

    active: PositiveInt
    inactive: NonNegativeInt
    scale: PositiveInt
    resamples: PositiveInt


class IntruderSection(_Section):
    """Windows in a trial."""

    active: PositiveInt
    trials: PositiveInt


class PoolSection(_Section):
    """Text that is searched for windows without activations."""

    tokens: PositiveInt


class SamplingSection(_Section):
    """How answers are sampled."""

    temperature: float = Field(ge=0)
    max_tokens: PositiveInt
    seed: int

    def made(self) -> Sampling:
        """As clients take it."""
        return Sampling(self.temperature, self.max_tokens, self.seed)


class EstimateSection(_Section):
    """For the estimated cost of a run."""

    characters_per_token: PositiveFloat
    explanation_characters: PositiveInt
    answer_tokens: dict[str, float]


class Protocol(_Section):
    """All numbers of the protocol; the sections are as in the file."""

    version: int
    latents: PositiveInt
    tests: tuple[TestName, ...]
    control: bool
    window: WindowSection
    explainer: ExplainerSection
    scoring: ScoringSection
    detection: BatchSection
    fuzzing: BatchSection
    simulation: SimulationSection
    intruder: IntruderSection
    pool: PoolSection
    sampling: SamplingSection
    estimate: EstimateSection

    def problem(self) -> str | None:
        """An inconsistency, if there is one."""
        if not self.explainer.top and not self.explainer.each:
            return "the explainer is shown no examples"
        if self.simulation.active > self.scoring.quantiles * self.scoring.each:
            return "simulation needs more active windows than scoring holds out"
        if self.simulation.inactive > self.scoring.inactive or self.intruder.trials > self.scoring.inactive:
            return "simulation or intruder needs more inactive windows than scoring holds out"
        if self.intruder.active > self.scoring.each or self.intruder.trials > self.scoring.quantiles:
            return "an intruder trial needs more windows than a group of scoring has"
        missing = set(KINDS) - self.estimate.answer_tokens.keys()
        return f"estimate.answer_tokens lacks {', '.join(sorted(missing))}" if missing else None


def load_protocol(tests: Sequence[str] | None = None) -> Protocol:
    """The definition ``explain/llm.toml``, with other tests where they are given.

    Raises:
        SaebenchError: the definition is invalid, or there is no such test.
    """
    content = load_definition("explain", "llm")
    if tests is not None:
        unknown = [name for name in tests if name not in TESTS]
        if unknown:
            raise SaebenchError(f"There is no test {unknown[0]!r}; there are: {', '.join(TESTS)}.")
        content["tests"] = list(dict.fromkeys(tests))
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise SaebenchError(f"explain/llm.toml: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    problem = protocol.problem()
    if problem:
        raise SaebenchError(f"explain/llm.toml is inconsistent: {problem}.")
    return protocol


def make_prompt(protocol: Protocol, kind: str, form: type[BaseModel], **variables: Any) -> Prompt:
    """A question from its template ``explain/prompts/<kind>.jinja``, with its size estimated."""
    common = {"open": protocol.window.open, "close": protocol.window.close, "scale": protocol.simulation.scale}
    system, user = render(kind, common | variables)
    size = (len(system) + len(user)) / protocol.estimate.characters_per_token
    return Prompt(kind, system, user, form, size, protocol.estimate.answer_tokens[kind])


def render(kind: str, variables: Mapping[str, Any]) -> tuple[str, str]:
    """``(system, user)`` of the template ``explain/prompts/<kind>.jinja``."""
    template = _template(kind)
    context = template.new_context(dict(variables))
    system, user = ("".join(template.blocks[part](context)).strip() for part in ("system", "user"))
    return system, user


def prompt_hashes(kinds: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the prompts of these kinds, by path."""
    folder = definition_folder("explain") / "prompts"
    prompts = {f"explain/prompts/{kind}.jinja": (folder / f"{kind}.jinja").read_bytes() for kind in kinds}
    return {name: hashlib.sha256(content).hexdigest() for name, content in prompts.items()}


def definitions_used() -> dict[str, str]:
    """SHA-256 of the definition and of every prompt."""
    return {"explain/llm": definition_hash("explain", "llm")} | prompt_hashes(KINDS)


@cache
def _template(kind: str) -> Template:
    # Prompts are plain text: nothing is escaped, and untrusted texts are values, never templates.
    loader = FileSystemLoader(definition_folder("explain") / "prompts")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.get_template(f"{kind}.jinja")
