"""The protocol ``explain/saebench.toml``, checked strictly."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from saebench.definitions import definition_hash, read_definition
from saebench.explaining.llm.protocol import SamplingSection, WindowSection, prompt_hashes

NAME = "saebench"
EXPLANATION, SCORING = "saebench_explanation", "saebench_scoring"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExplainerWindows(_Section):
    """Windows shown to the explainer, and the length of its answer."""

    top: PositiveInt
    weighted: PositiveInt
    most_tokens: PositiveInt


class ScoringWindows(_Section):
    """Windows in the question."""

    top: PositiveInt
    weighted: PositiveInt
    random: PositiveInt


class Estimate(_Section):
    """For rate limits by tokens."""

    characters_per_token: PositiveFloat
    answer_tokens: PositiveInt


class AutoInterpProtocol(_Section):
    """All numbers; sections as in the file."""

    version: int
    latents: PositiveInt
    activations: PositiveInt
    window: WindowSection
    explainer: ExplainerWindows
    scoring: ScoringWindows
    sampling: SamplingSection
    estimate: Estimate


def read_autointerp_protocol() -> AutoInterpProtocol:
    """Read the protocol.

    Raises:
        SaebenchError: it is missing or invalid.
    """
    return read_definition(AutoInterpProtocol, "explain", NAME)


def definitions_used() -> dict[str, str]:
    """SHA-256 of the protocol and its prompts."""
    return {f"explain/{NAME}": definition_hash("explain", NAME)} | prompt_hashes((EXPLANATION, SCORING))
