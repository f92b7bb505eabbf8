"""The protocol ``probes/ravel.toml``, checked strictly."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from saebench.definitions import read_definition

NAME = "ravel"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(_Section):
    """How many prompts, entities and pairs."""

    prompts: PositiveInt
    entities: PositiveInt
    pairs: PositiveInt
    train: float = Field(gt=0, lt=1)
    tokens: PositiveInt


class MaskSection(_Section):
    """How the mask is trained."""

    learning_rate: PositiveFloat
    epochs: PositiveInt
    batch: PositiveInt
    last_temperature: float = Field(gt=0, le=1)


class Least(_Section):
    """What the language model must know."""

    prompts: PositiveInt


class RavelProtocol(_Section):
    """All numbers; sections as in the file. ``sha256`` of the file."""

    version: int
    citation: str
    classes: dict[str, tuple[str, ...]]
    data: DataSection
    mask: MaskSection
    least: Least
    sha256: str


def read_ravel_protocol() -> RavelProtocol:
    """Read the protocol.

    Raises:
        SaebenchError: it is missing or invalid.
    """
    return read_definition(RavelProtocol, "probes", NAME)
