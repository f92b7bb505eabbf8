"""Four tests of a latent and its explanation with a language model: detection, fuzzing, simulation and intruder test.

Each test turns a latent's held-out windows into questions, and the answers into a score. An answer that does not fit its
question (another number of verdicts, a token that does not exist) is unusable and excluded; it is never guessed.
Sources: see ``explain/llm.toml``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from saebench.explaining.llm.answers import Intruder, Simulation, Verdicts, verdicts_form
from saebench.explaining.llm.endpoint import Prompt
from saebench.explaining.llm.explainer import Writer
from saebench.explaining.llm.protocol import Protocol, TestName, make_prompt
from saebench.explaining.llm.statistics import Interval, balanced_accuracy, correlation, wilson
from saebench.explaining.llm.windows import Material, Window, seeded_random


@dataclass(frozen=True)
class Question:
    """A prompt and its correct answer.

    Attributes:
        prompt: the prompt.
        truth: for each text: whether it fits (detection, fuzzing); for each token: its activation (simulation); the
            intruder's number and the number of texts (intruder test).
    """

    prompt: Prompt
    truth: tuple[Any, ...]


@dataclass(frozen=True)
class Score:
    """A test's score of one latent.

    Attributes:
        value: None where it is undefined, for a ``reason``.
        interval: 95 %, where there is one.
        n: windows scored (detection, fuzzing, simulation) or trials (intruder test).
        unusable: answers that do not fit their question.
        reason: see ``value``.
    """

    value: float | None
    interval: Interval | None = None
    n: int = 0
    unusable: int = 0
    reason: str | None = None


class Test(ABC):
    """A test.

    Class attributes:
        name: as in the protocol.
        bounds: of the scores.
        needs_explanation: whether it tests an explanation; otherwise it tests the latent itself.
    """

    __test__ = False  # not one of pytest's
    name: ClassVar[TestName]
    bounds: ClassVar[Interval] = (0.0, 1.0)
    needs_explanation: ClassVar[bool] = True
    unit: ClassVar[str] = "balanced accuracy"

    def __init__(self, protocol: Protocol, seed: int) -> None:
        self.protocol, self.seed = protocol, seed

    @property
    def chance(self) -> float:
        """The score of random guessing."""
        return 0.5

    @abstractmethod
    def questions(self, material: Material, explanation: str, writer: Writer) -> list[Question]:
        """The questions about one latent."""

    @abstractmethod
    def fits(self, question: Question, answer: Any) -> bool:
        """Whether an answer of the right form answers this question."""

    @abstractmethod
    def score(self, answered: Sequence[tuple[Question, Any]]) -> Score:
        """The score from the questions with usable answers."""

    def score_answers(self, questions: Sequence[Question], answers: Sequence[BaseModel | None]) -> Score:
        """The score of a latent from all its answers; those of the wrong form are None."""
        usable = [(question, answer) for question, answer in zip(questions, answers, strict=True)
                  if answer is not None and self.fits(question, answer)]  # fmt: skip
        found = self.score(usable)
        return Score(found.value, found.interval, found.n, len(questions) - len(usable), found.reason)


class _Verdicts(Test):
    """Yes or no for each of some texts."""

    def _batches(self, items: list[tuple[str, bool]], explanation: str, batch: int) -> list[Question]:
        questions = []
        for first in range(0, len(items), batch):
            texts, truth = zip(*items[first : first + batch], strict=True)
            form = verdicts_form(len(texts))
            example = ", ".join(
                f'"{name}": {"false" if index % 2 else "true"}' for index, name in enumerate(form.model_fields)
            )
            prompt = make_prompt(
                self.protocol, self.name, form, explanation=explanation, texts=texts, example=example
            )  # fmt: skip
            questions.append(Question(prompt, truth))
        return questions

    def fits(self, question: Question, answer: Verdicts) -> bool:
        """A verdict for each text."""
        return len(answer.answers) == len(question.truth)

    def score(self, answered: Sequence[tuple[Question, Verdicts]]) -> Score:
        """Balanced accuracy."""
        pairs = [pair for question, answer in answered for pair in zip(question.truth, answer.answers, strict=True)]
        found = balanced_accuracy(pairs)
        if found is None:
            return Score(None, n=len(pairs), reason="no usable answers about one of the two types of text")
        return Score(*found, n=len(pairs))


class Detection(_Verdicts):
    """Does the explanation distinguish windows in which the latent is active from others?"""

    name = "detection"

    def questions(self, material: Material, explanation: str, writer: Writer) -> list[Question]:
        """Active and inactive windows, unmarked, in random order."""
        items = [(writer.text(window), True) for window in material.active]
        items += [(writer.text(window), False) for window in material.inactive]
        seeded_random(self.seed, material.latent, self.name).shuffle(items)
        return self._batches(items, explanation, self.protocol.detection.batch)


class Fuzzing(_Verdicts):
    """Does the explanation distinguish the tokens on which the latent is active from others in the same window?"""

    name = "fuzzing"

    def questions(self, material: Material, explanation: str, writer: Writer) -> list[Question]:
        """Each active window twice, once marked correctly and once incorrectly, never both in one question."""
        draw = seeded_random(self.seed, material.latent, self.name)
        both = []
        for window in material.active:
            marked = window.marked(self.protocol.window.mark_share)
            wrong = _marks_elsewhere(window, len(marked), draw)
            if wrong:  # else the latent is active on all of the window
                both.append((writer.text(window, marked), writer.text(window, wrong)))
        draw.shuffle(both)
        rounds: list[list[tuple[str, bool]]] = [[], []]
        for index, (right, wrong_text) in enumerate(both):
            rounds[index % 2].append((right, True))
            rounds[1 - index % 2].append((wrong_text, False))
        questions = []
        for items in rounds:
            draw.shuffle(items)
            questions += self._batches(items, explanation, self.protocol.fuzzing.batch)
        return questions


class Simulated(Test):
    """Do activations predicted from the explanation correlate with the true ones, token by token?"""

    name = "simulation"
    bounds = (-1.0, 1.0)
    unit = "correlation"

    @property
    def chance(self) -> float:
        """The score of random guessing."""
        return 0.0

    def questions(self, material: Material, explanation: str, writer: Writer) -> list[Question]:
        """One window each."""
        of = self.protocol.simulation
        windows = material.active[: of.active] + material.inactive[: of.inactive]
        seeded_random(self.seed, material.latent, self.name).shuffle(windows)
        prompts = [
            make_prompt(self.protocol, self.name, Simulation, explanation=explanation, tokens=writer.pieces(window))
            for window in windows
        ]
        return [Question(prompt, window.activations) for prompt, window in zip(prompts, windows, strict=True)]

    def fits(self, question: Question, answer: Simulation) -> bool:
        """Tokens that exist, each once, and values on the scale."""
        numbers = [each.token for each in answer.activations]
        in_range = all(1 <= number <= len(question.truth) for number in numbers)
        on_scale = all(0 <= each.activation <= self.protocol.simulation.scale for each in answer.activations)
        return in_range and on_scale and len(set(numbers)) == len(numbers)

    def score(self, answered: Sequence[tuple[Question, Simulation]]) -> Score:
        """Correlation over all tokens."""
        pairs = []
        for question, answer in answered:
            predicted = [0.0] * len(question.truth)
            for each in answer.activations:
                predicted[each.token - 1] = float(each.activation)
            pairs.append((question.truth, predicted))
        found = correlation(pairs, self.protocol.simulation.resamples, self.seed)
        if found is None:
            return Score(None, n=len(pairs), reason="no usable answers about windows in which activations differ")
        return Score(*found, n=len(pairs))


class IntruderTest(Test):
    """Do the latent's windows share a property that a randomly marked window lacks? Needs no explanation."""

    name = "intruder"
    needs_explanation = False
    unit = "accuracy"

    @property
    def chance(self) -> float:
        """The score of random guessing."""
        return 1.0 / (self.protocol.intruder.active + 1)

    def questions(self, material: Material, explanation: str, writer: Writer) -> list[Question]:
        """A trial for each group by strength: some of its windows, and an inactive window with random marks."""
        of, draw = self.protocol.intruder, seeded_random(self.seed, material.latent, self.name)
        questions = []
        for group, intruder in list(zip(material.groups, material.inactive, strict=False))[: of.trials]:
            members = group[: of.active]
            marks = [window.marked(self.protocol.window.mark_share) for window in members]
            wrong = _marks_elsewhere(intruder, len(draw.choice(marks)), draw)
            items = [(writer.text(window, marked), False) for window, marked in zip(members, marks, strict=True)]
            items.append((writer.text(intruder, wrong), True))
            draw.shuffle(items)
            texts = [text for text, _ in items]
            number = [is_intruder for _, is_intruder in items].index(True) + 1
            prompt = make_prompt(self.protocol, self.name, Intruder, texts=texts)
            questions.append(Question(prompt, (number, len(items))))
        return questions

    def fits(self, question: Question, answer: Intruder) -> bool:
        """The number of a text."""
        return 1 <= answer.intruder <= int(question.truth[1])

    def score(self, answered: Sequence[tuple[Question, Intruder]]) -> Score:
        """Share of trials in which the intruder was found."""
        if not answered:
            return Score(None, reason="no usable answers")
        right = sum(answer.intruder == question.truth[0] for question, answer in answered)
        return Score(right / len(answered), wilson(right, len(answered)), len(answered))


def make_tests(protocol: Protocol, seed: int) -> list[Test]:
    """The protocol's tests."""
    known: dict[str, type[Test]] = {each.name: each for each in (Detection, Fuzzing, Simulated, IntruderTest)}
    return [known[name](protocol, seed) for name in protocol.tests]


def _marks_elsewhere(window: Window, count: int, draw: Any) -> list[int]:
    """Up to ``count`` random positions on which the latent is not active."""
    silent = [index for index, value in enumerate(window.activations) if value == 0]
    return sorted(draw.sample(silent, min(count, len(silent))))
