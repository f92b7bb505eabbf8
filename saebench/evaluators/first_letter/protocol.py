"""The protocol ``probes/first-letter.toml``, checked strictly."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from saebench.definitions import read_definition

NAME = "first-letter"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Words(_Section):
    """How many words, and the share that probes are fitted to."""

    most: PositiveInt
    train: float = Field(gt=0, lt=1)


class PromptSection(_Section):
    """The text around a word."""

    template: str = Field(pattern=r"\{word\}")
    examples: PositiveInt
    group: PositiveInt


class Training(_Section):
    """How probes of all letters are fitted together: minibatches of Adam."""

    batch: PositiveInt
    epochs: PositiveInt
    learning_rate: PositiveFloat
    last_learning_rate: PositiveFloat
    weight_decay: float = Field(ge=0)
    l1: float = Field(ge=0)


class KSparseSection(_Section):
    """The probes on single latents of a letter."""

    most: PositiveInt
    jump: float = Field(ge=0)
    C: PositiveFloat


class Least(_Section):
    """What the language model must be able to do."""

    f1: float = Field(ge=0, le=1)
    letters: int = Field(ge=1, le=26)


class AbsorptionSection(_Section):
    """The thresholds of absorption."""

    fires: float = Field(ge=0)
    full_cosine: float = Field(ge=-1, le=1)
    cosine: float = Field(ge=-1, le=1)
    latents: PositiveInt
    share: float = Field(ge=0)


class FirstLetterProtocol(_Section):
    """All numbers; sections as in the file. ``sha256`` of the file."""

    version: int
    citation: str
    words: Words
    prompt: PromptSection
    probe: Training
    selection: Training
    k_sparse: KSparseSection
    least: Least
    absorption: AbsorptionSection
    sha256: str


def read_first_letter_protocol() -> FirstLetterProtocol:
    """Read the protocol.

    Raises:
        SaebenchError: it is missing or invalid.
    """
    return read_definition(FirstLetterProtocol, "probes", NAME)
