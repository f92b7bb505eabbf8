"""Multiple-choice questions: reading, asking, and which a model answers right under every order of the options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.forgetting.protocol import MOST_OPTIONS, QuestionFile, QuestionSection
from saebench.lm import Cut
from saebench.lm.batching import batches_by_length
from saebench.lm.positions import tokens_of
from saebench.lm.prompts import Prompts, in_common
from saebench.tasks.sources import inside, json_lines, lookup

LETTERS = "ABCD"
ORDERS = tuple(permutations(range(MOST_OPTIONS)))
TOKENS_PER_BATCH = 4096
WASTE = 128
"""Maximum padding tokens of a batch: about the cost of a separate batch."""
QUESTIONS_TOGETHER = 128
"""Keys and values of what their orders share are in memory at once."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question.

    Attributes:
        subject, text: what it is about, and itself.
        options: two to four; ``right`` is the number of the right one.
        right: see ``options``.
    """

    subject: str
    text: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Asked:
    """A question in one order of its options.

    Attributes:
        ids: token ids of the prompt.
        options: their number; ``right``: the place of the right one.
        right: see ``options``.
    """

    ids: tuple[int, ...]
    options: int
    right: int


class Asker:
    """Writes prompts and reads answers.

    Args:
        tokenizer: its chat template is used where it has one.
        section: of the protocol.
        bos: whether a BOS token comes first where there is no chat template.

    Raises:
        SaebenchError: a letter is no single token.
    """

    def __init__(self, tokenizer: Any, section: QuestionSection, bos: bool) -> None:
        self._tokenizer, self._section = tokenizer, section
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self._front = (tokenizer.bos_token_id,) if bos and not self.chat else ()
        found = tokens_of(tokenizer, [*LETTERS, *(f" {letter}" for letter in LETTERS)])
        unknown = tokenizer.unk_token_id
        self._letters = []
        for number, letter in enumerate(LETTERS):
            ids = [found[at][0] for at in (number, number + len(LETTERS)) if len(found[at]) == 1 and found[at][0] != unknown]
            if not ids:
                raise SaebenchError(f"Questions cannot be asked: the tokenizer has no single token for the answer {letter}.")
            self._letters.append([ids[0], ids[-1]])

    def ask(self, question: ChoiceQuestion, order: Sequence[int]) -> Asked:
        """The question with its options in an order."""
        listed = "".join(f"\n{letter}. {question.options[index]}" for letter, index in zip(LETTERS, order, strict=False))
        text = f"{self._section.before.format(subject=question.subject)}{question.text}{listed}"
        if self.chat:
            messages = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text += "\n"
        ids = tokens_of(self._tokenizer, [text + self._section.answer])[0]
        return Asked((*self._front, *ids), len(order), list(order).index(question.right))

    def right(self, logits: Tensor, asked: Sequence[Asked]) -> Tensor:
        """``[questions]`` bool: whether the right letter is the likeliest, from logits ``[questions, V]`` after the prompt.

        A letter counts with or without a space in front, whichever is likelier.
        """
        letters = torch.tensor(self._letters, device=logits.device)
        scores = logits[:, letters].amax(dim=2).float()
        options = torch.tensor([each.options for each in asked], device=logits.device)
        absent = torch.arange(len(LETTERS), device=logits.device) >= options.unsqueeze(1)
        best = scores.masked_fill(absent, -torch.inf).argmax(dim=1).cpu()
        return best == torch.tensor([each.right for each in asked])


def read_questions(folder: Path, of: QuestionFile) -> list[ChoiceQuestion]:
    """The questions of a file. Of options in columns of their own, the right one comes first, second, third, ... in turn.

    Raises:
        SaebenchError: the file is damaged, or a row is no question.
    """
    found = []
    for number, row in enumerate(json_lines(inside(folder, of.file), of.file)):
        text = lookup(row, of.question)
        if of.choices:
            options, right = lookup(row, of.choices), lookup(row, of.answer)
            right = LETTERS.find(right) if isinstance(right, str) and len(right) == 1 else right
        else:
            options = [lookup(row, name) for name in of.wrong]
            right = number % (len(options) + 1)
            options.insert(right, lookup(row, of.correct))
        good = isinstance(text, str) and isinstance(options, list) and all(isinstance(each, str) for each in options)
        if not good or not 2 <= len(options) <= MOST_OPTIONS or type(right) is not int or not 0 <= right < len(options):
            raise SaebenchError(f"Row {number + 1} of {of.file} is no question with 2 to {MOST_OPTIONS} options.")
        found.append(ChoiceQuestion(of.subject, text, tuple(options), right))
    return found


def batches(asked: Sequence[Asked]) -> list[list[int]]:
    """Numbers of questions in batches of similar length."""
    return batches_by_length([len(each.ids) for each in asked], TOKENS_PER_BATCH, WASTE)


def padded(asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    """``(tokens [questions, position], last [questions])``: padded on the right, which causal attention does not see."""
    width = max(len(each.ids) for each in asked)
    tokens = torch.tensor([[*each.ids, *[0] * (width - len(each.ids))] for each in asked])
    return tokens, torch.tensor([len(each.ids) - 1 for each in asked])


class Orders:
    """Questions with their options in every order; what the orders of a question have in common runs once.

    Args:
        cut: the language model.
        asker: of the questions.
        questions: with up to four options.
    """

    def __init__(self, cut: Cut, asker: Asker, questions: Sequence[ChoiceQuestion]) -> None:
        self._asker = asker
        self.asked = [
            [asker.ask(each, [at for at in order if at < len(each.options)]) for order in ORDERS] for each in questions
        ]
        heads = [in_common([each.ids for each in orders]) for orders in self.asked]
        ids = [each.ids for orders in self.asked for each in orders]
        self._rows = Prompts(cut, ids, [head for head in heads for _ in ORDERS])

    def right(self, order: int, numbers: Sequence[int]) -> list[int]:
        """Those of ``numbers`` whose questions are answered right with their options in an order (its number), ascending."""
        rows = [number * len(ORDERS) + order for number in numbers]
        found: list[int] = []
        for batch in self._rows.batches(rows):
            some = [numbers[at] for at in batch]
            logits = self._rows.next_logits([rows[at] for at in batch])
            right = self._asker.right(logits, [self.asked[number][order] for number in some])
            found += [number for number, good in zip(some, right.tolist(), strict=True) if good]
        return sorted(found)


def known_questions(
    cut: Cut, asker: Asker, questions: Sequence[ChoiceQuestion], advance: Callable[[float], None]
) -> list[int]:
    """Numbers of the questions that are answered right under every order of their options.

    Each order is asked only of the questions that were right under all before it.
    """
    known: list[int] = []
    for start in range(0, len(questions), QUESTIONS_TOGETHER):
        some = questions[start : start + QUESTIONS_TOGETHER]
        orders, left = Orders(cut, asker, some), list(range(len(some)))
        for order in range(len(ORDERS)):
            kept = orders.right(order, left)
            advance(len(left) - len(kept))
            left = kept
        advance(len(left))
        known += [start + number for number in left]
    return known
