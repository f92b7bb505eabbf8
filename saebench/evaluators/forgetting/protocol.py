"""The protocol ``probes/unlearning.toml`` and the pairs in ``tasks/unlearning/``, checked strictly."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from saebench.definitions import read_definition
from saebench.tasks.sources import inside

NAME, PAIRS, DEFAULT_PAIR = "unlearning", "tasks/unlearning", "wmdp-bio"
MOST_OPTIONS = 4


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TextSection(_Section):
    """Rows of text on which latents are counted."""

    rows: PositiveInt
    context: PositiveInt


class LatentSection(_Section):
    """The settings that are tried: all combinations."""

    retain: tuple[float, ...] = Field(min_length=1)
    count: tuple[PositiveInt, ...] = Field(min_length=1)
    clamp: tuple[float, ...] = Field(min_length=1)


class QuestionSection(_Section):
    """How questions are asked, and the share of retained ones that must stay right."""

    before: str
    answer: str
    kept: float = Field(ge=0, le=1)


class Least(_Section):
    """What the language model must know."""

    questions: PositiveInt


class UnlearningProtocol(_Section):
    """All numbers; sections as in the file. ``sha256`` of the file."""

    version: int
    citation: str
    text: TextSection
    latents: LatentSection
    questions: QuestionSection
    least: Least
    sha256: str


class QuestionFile(_Section):
    """A file of multiple-choice questions, JSON lines; the columns of a question and its options.

    Either ``choices`` (a list) and ``answer`` (its index or letter), or ``correct`` and ``wrong``, each option in a column.
    """

    subject: str
    file: str
    question: str
    choices: str = ""
    answer: str = ""
    correct: str = ""
    wrong: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_form(self) -> QuestionFile:
        listed, apart = bool(self.choices and self.answer), bool(self.correct and self.wrong)
        if listed == apart or len(self.wrong) >= MOST_OPTIONS:
            raise ValueError(f"options are choices and answer, or correct and up to {MOST_OPTIONS - 1} wrong")
        return self


class Side(_Section):
    """A text and questions about it; ``field`` is the text's column in JSON lines."""

    text: str
    field: str = "text"
    questions: tuple[QuestionFile, ...] = Field(min_length=1)


class Pair(_Section):
    """What to forget and what to retain. ``source`` says where the files come from."""

    version: int
    title: str
    source: str
    forget: Side
    retain: Side

    def files(self) -> list[str]:
        """All files, relative to the data folder."""
        return [name for side in (self.forget, self.retain) for name in (side.text, *(each.file for each in side.questions))]

    def missing(self, folder: Path | None) -> list[str]:
        """The files that the data folder lacks."""
        return [name for name in self.files() if folder is None or not inside(folder, name).is_file()]


def read_unlearning_protocol() -> UnlearningProtocol:
    """Read the protocol.

    Raises:
        SaebenchError: it is missing or invalid.
    """
    return read_definition(UnlearningProtocol, "probes", NAME)


def read_pair(name: str) -> Pair:
    """Read a pair by name.

    Raises:
        SaebenchError: there is none of that name, or it is invalid.
    """
    return read_definition(Pair, PAIRS, name)
