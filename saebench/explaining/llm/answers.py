"""The schemas of answers. An answer that does not match its schema is counted as unusable and never guessed."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

LONGEST_EXPLANATION = 1000
"""Characters."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _sentence(text: str) -> str:
    plain = " ".join("".join(letter for letter in each if letter.isprintable()) for each in text.split())
    if not plain.strip() or len(plain) > LONGEST_EXPLANATION:
        raise ValueError(f"an explanation has 1 to {LONGEST_EXPLANATION} characters")
    return plain


# Bounds are checked by code, not by keywords of the schema, because endpoints reject keywords that they do not support.
class Explanation(_Form):
    """What makes a latent active."""

    explanation: Annotated[str, AfterValidator(_sentence)]


class Verdicts(_Form):
    """A verdict for each text of a question, by name, so that none can be missing or out of order; see ``verdicts_form``."""

    @property
    def answers(self) -> list[bool]:
        """The verdicts, in the order of the texts."""
        return [bool(getattr(self, name)) for name in type(self).model_fields]


@cache
def verdicts_form(texts: int) -> type[Verdicts]:
    """The form of an answer about this number of texts: ``{"text_1": true, "text_2": false, ...}``."""
    fields: dict[str, Any] = {f"text_{number}": (bool, ...) for number in range(1, texts + 1)}
    return create_model("Verdicts", __base__=Verdicts, **fields)


class Intruder(_Form):
    """The number of the text that is not like the others, from 1."""

    intruder: int


class SimulatedToken(_Form):
    """A token's number, from 1, and its predicted activation."""

    token: int
    activation: int


class Simulation(_Form):
    """Predicted activations; tokens that are not listed are 0."""

    activations: list[SimulatedToken]


class ActiveTexts(_Form):
    """Numbers of the texts in which a latent is active, from 1."""

    active: list[int]


Form = TypeVar("Form", bound=BaseModel)
_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)


def parse(text: str, form: type[Form]) -> Form | None:
    """An answer in its form, or None.

    The answer must be the JSON alone; only a reasoning block before it and a code fence around it are removed.
    """
    bare = _REASONING.sub("", text, count=1).strip()
    fenced = _FENCE.match(bare)
    try:
        return form.model_validate_json(fenced.group(1) if fenced else bare)
    except (ValidationError, RecursionError):
        return None


def schema(form: type[BaseModel]) -> dict[str, Any]:
    """A form as JSON Schema for ``response_format``, without descriptions, so that a change of these has no effect."""
    return {"name": form.__name__, "strict": True, "schema": _bare(form.model_json_schema())}


def _bare(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _bare(each) for name, each in part.items() if name not in ("title", "description")}
    return [_bare(each) for each in part] if isinstance(part, list) else part
