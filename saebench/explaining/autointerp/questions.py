"""The two questions about a latent, and what their answers score."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import BaseModel

from saebench.explaining.autointerp.protocol import EXPLANATION, SCORING, AutoInterpProtocol
from saebench.explaining.autointerp.windows import Windows
from saebench.explaining.llm.answers import ActiveTexts, Explanation
from saebench.explaining.llm.endpoint import Prompt
from saebench.explaining.llm.explainer import WindowWriter
from saebench.explaining.llm.protocol import render


@dataclass(frozen=True)
class Verdict:
    """How a question was answered.

    Attributes:
        hits, misses: active windows that were named, and that were not.
        false_alarms, rejections: windows without an activation that were named, and that were not.
    """

    hits: int
    misses: int
    false_alarms: int
    rejections: int

    @property
    def accuracy(self) -> float:
        """Share of windows that are classified right."""
        return (self.hits + self.rejections) / (self.hits + self.misses + self.false_alarms + self.rejections)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares among active and among inactive windows; None where there is no window of a kind."""
        active, inactive = self.hits + self.misses, self.false_alarms + self.rejections
        return (self.hits / active + self.rejections / inactive) / 2 if active and inactive else None


def explanation_question(windows: Windows, writer: WindowWriter, protocol: AutoInterpProtocol) -> Prompt:
    """Asks for a latent's explanation."""
    texts = [writer.text(window, windows.marked(window)) for window in windows.shown]
    marks = {"open": protocol.window.open, "close": protocol.window.close, "most_tokens": protocol.explainer.most_tokens}
    return _prompt(EXPLANATION, Explanation, protocol, texts, marks)


def scoring_question(windows: Windows, explanation: str, writer: WindowWriter, protocol: AutoInterpProtocol) -> Prompt:
    """Asks which windows an explanation fits."""
    texts = [writer.text(window) for window in windows.asked]
    likely = protocol.scoring.top + protocol.scoring.weighted
    example = json.dumps(list(range(1, len(texts) + 1, max(1, len(texts) // likely)))[:likely])
    return _prompt(SCORING, ActiveTexts, protocol, texts, {"explanation": explanation.rstrip("."), "example": example})


def score_answer(windows: Windows, answer: ActiveTexts) -> Verdict | None:
    """The verdict; None where a text is named that does not exist. One that is named twice counts once, as in SAEBench."""
    truth, named = windows.truth, set(answer.active)
    if not named <= set(range(1, len(truth) + 1)):
        return None
    pairs = [(active, number in named) for number, active in enumerate(truth, 1)]
    return Verdict(*(pairs.count(each) for each in ((True, True), (True, False), (False, True), (False, False))))


def _prompt(
    kind: str, form: type[BaseModel], protocol: AutoInterpProtocol, texts: list[str], variables: dict[str, object]
) -> Prompt:
    system, user = render(kind, {"texts": texts} | variables)
    size = (len(system) + len(user)) / protocol.estimate.characters_per_token
    return Prompt(kind, system, user, form, size, protocol.estimate.answer_tokens)
