"""The planned questions of a run, with their tokens and cost, and how many are cached."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from saebench.explaining.llm.answers import Explanation, parse
from saebench.explaining.llm.client import ChatClient
from saebench.explaining.llm.endpoint import Prompt
from saebench.explaining.llm.explainer import Writer, explanation_prompt
from saebench.explaining.llm.scorers import Question, Test
from saebench.explaining.llm.windows import Material


@dataclass
class Load:
    """Questions for one role.

    Attributes:
        questions: all of them; ``cached`` are answered already.
        cached: see ``questions``.
        prompt_tokens: estimated, of those not cached; ``answer_tokens`` as expected.
        answer_tokens: see ``prompt_tokens``.
        cost: their price; None where prices are unknown.
    """

    questions: int = 0
    cached: int = 0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    cost: float | None = None

    @property
    def to_ask(self) -> int:
        """Questions not in the cache."""
        return self.questions - self.cached


def other_latent(latents: Sequence[int], seed: int) -> dict[int, int]:
    """For each latent another one, whose explanation is its control: a cycle through all in random order."""
    order = sorted(latents)
    random.Random(f"{seed}/control").shuffle(order)
    return dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}


def questions_about(
    material: Material, tests: Sequence[Test], explanation: str | None, control: str | None, writer: Writer
) -> Iterator[tuple[Test, bool, list[Question]]]:
    """All questions about a latent: ``(test, whether of the control, questions)``.

    Args:
        material: the latent's windows.
        tests: the tests.
        explanation: the latent's explanation, if there is one; tests that need one are skipped otherwise.
        control: another latent's explanation, if the latent is to be scored with that as well.
        writer: of windows.
    """
    for test in tests:
        if not test.needs_explanation:
            yield test, False, test.questions(material, "", writer)
            continue
        for is_control, text in ((False, explanation), (True, control)):
            if text is not None:
                yield test, is_control, test.questions(material, text, writer)


def plan(
    materials: Sequence[Material],
    tests: Sequence[Test],
    writer: Writer,
    explainer: ChatClient,
    scorer: ChatClient,
    seed: int,
) -> tuple[Load, Load]:
    """``(explainer's, scorer's)`` questions. Unknown explanations are replaced by text of a typical length."""
    explaining, scoring = Load(), Load()
    placeholder = "x" * writer.protocol.estimate.explanation_characters
    texts: dict[int, str] = {}
    for material in materials:
        prompt = explanation_prompt(material, writer)
        answer = explainer.cached(prompt)
        known = parse(answer.text, Explanation) if answer is not None else None
        if answer is None or known is not None:
            texts[material.latent] = known.explanation if known is not None else placeholder
        _add(explaining, prompt, answer is not None)
    others = other_latent(list(texts), seed) if writer.protocol.control else {}
    for material in materials:
        control = texts[others[material.latent]] if material.latent in others else None
        asked = questions_about(material, tests, texts.get(material.latent), control, writer)
        for question in (question for _, _, questions in asked for question in questions):
            _add(scoring, question.prompt, scorer.cached(question.prompt) is not None)
    explaining.cost = explainer.endpoint.cost(explaining.prompt_tokens, explaining.answer_tokens)
    scoring.cost = scorer.endpoint.cost(scoring.prompt_tokens, scoring.answer_tokens)
    return explaining, scoring


def _add(load: Load, prompt: Prompt, cached: bool) -> None:
    load.questions += 1
    load.cached += cached
    if not cached:
        load.prompt_tokens += prompt.prompt_tokens
        load.answer_tokens += prompt.answer_tokens
