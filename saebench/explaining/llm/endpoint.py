"""An endpoint, its sampling settings, and a prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel

from saebench.errors import SaebenchError


@dataclass(frozen=True)
class Endpoint:
    """The address and model of an endpoint.

    Attributes:
        url: up to and including the version, such as ``http://localhost:8000/v1``.
        model: its name at the endpoint.
        key_variable: environment variable that holds the key, if the endpoint requires one.
        price_in: price of a million tokens of prompts, None if unknown; ``price_out`` of a million of answers.
        price_out: see ``price_in``.
        role: ``explainer`` or ``scorer``, for messages.
        options: in front of the names ``url``, ``model``, ``key`` and ``price`` where they are given, for messages.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    price_in: float | None = None
    price_out: float | None = None
    role: str = "explainer"
    options: str = ""

    def option(self, name: str) -> str:
        """How the user gives one of this endpoint's settings."""
        return f"{self.options or f'--{self.role}-'}{name}"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):  # it may be a key: it is not repeated
            raise SaebenchError(f"{self.option('key')} must be the name of an environment variable that holds the key.")
        try:
            parts = urlsplit(self.url)
            named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        if not named:
            raise SaebenchError(f"{self.option('url')} must be an address such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SaebenchError(
                f"{self.option('url')} must be a plain address: a key belongs in the variable {self.key_variable}."
            )
        if not self.model.strip():
            raise SaebenchError(f"{self.option('model')} is empty: give the model's name at the endpoint.")
        if any(price is not None and not 0 <= price < float("inf") for price in (self.price_in, self.price_out)):
            raise SaebenchError(
                f"{self.option('price')} must be two prices of 0 or more for a million tokens, as in 0.15,0.60."
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies this model's answers in the cache."""
        parts = urlsplit(self.url)
        return {"url": urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), "model": self.model}

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Price of this number of tokens; None where prices are unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


@dataclass(frozen=True)
class Prompt:
    """A question.

    Attributes:
        kind: ``explanation`` or the test that asks.
        system: instructions; ``user`` is the question.
        user: see ``system``.
        form: of the answer.
        prompt_tokens: estimated; ``answer_tokens`` as expected.
        answer_tokens: see ``prompt_tokens``.
    """

    kind: str
    system: str
    user: str
    form: type[BaseModel]
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How an endpoint samples its answers; see ``explain/llm.toml``."""

    temperature: float
    max_tokens: int
    seed: int
