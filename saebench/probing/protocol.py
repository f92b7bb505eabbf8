"""The probing protocols in ``probes/``, checked strictly."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saebench.definitions import definition_hash, load_definition
from saebench.errors import SaebenchError

PROTOCOLS = ("gao2024", "k-sparse", "dense-baseline")

Pooling = Literal["last", "mean", "max"]
Of = Literal["pre-activations", "activations"]


class Strict(BaseModel):
    """A part of a definition: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Examples(Strict):
    """How many examples of which tasks, and how they are split."""

    tasks: str
    most: int = Field(ge=100)
    shares: dict[str, float]

    @model_validator(mode="after")
    def _shares_add_up(self) -> Examples:
        if (
            set(self.shares) != {"train", "validation", "test"}
            or min(self.shares.values()) <= 0
            or abs(sum(self.shares.values()) - 1) > 1e-9
        ):
            raise ValueError("the shares of train, validation and test must be positive and add up to 1")
        return self


class TextLimits(Strict):
    """The maximum number of tokens of a text (without BOS), and the side on which a longer one is truncated."""

    most_tokens: int = Field(ge=1)
    drop: Literal["start", "end"]

    def with_bos(self, bos: bool) -> TextLimits:
        """The limits where the maximum counts a BOS token, as SAEBench's does."""
        return self.model_copy(update={"most_tokens": max(1, self.most_tokens - bos)})


class Values(Strict):
    """Which values of the latents are probed, and how they are pooled over a text's tokens."""

    of: Of
    pooling: Pooling


class BestLatent(Strict):
    """Settings of the one-dimensional probes."""

    candidates: int = Field(ge=1)
    bootstrap: int = Field(ge=100)


class KSparse(Strict):
    """Settings of the probes on a few latents."""

    k: tuple[int, ...]
    C: float = Field(gt=0)


class Dense(Strict):
    """Settings of the baselines."""

    directions: tuple[Literal["channels", "pca", "random"], ...]
    C: tuple[float, ...]


class _Gao(Strict):
    version: int
    citation: str
    examples: Examples
    text: TextLimits
    values: Values
    probe: BestLatent


class _KSparseFile(Strict):
    version: int
    citation: str
    values: Values
    probe: KSparse


class _DenseFile(Strict):
    version: int
    citation: str
    probe: Dense


class Protocol(Strict):
    """All three protocols together; ``sha256`` by name of the file."""

    best: _Gao
    k_sparse: _KSparseFile
    dense: _DenseFile
    sha256: dict[str, str]


def read_protocol() -> Protocol:
    """Read the protocols.

    Raises:
        SaebenchError: one is missing or invalid.
    """
    try:
        return Protocol(
            best=_Gao(**load_definition("probes", "gao2024")),
            k_sparse=_KSparseFile(**load_definition("probes", "k-sparse")),
            dense=_DenseFile(**load_definition("probes", "dense-baseline")),
            sha256={name: definition_hash("probes", name) for name in PROTOCOLS},
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise SaebenchError(
            f"A protocol in probes/ is invalid: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        ) from error
