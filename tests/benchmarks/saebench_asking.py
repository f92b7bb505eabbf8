"""What ravel, unlearning and autointerp are compared on: entities, questions and a reader that a small model can do with.

SmolLM2-135M knows enough cities for RAVEL. It answers no question right under every order of its options: unlearning takes
those that it answers right in their own order, and asks them in all 24 orders, as it would with an able model.
Autointerp's questions go to ``reader``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from saebench.evaluators.entities.data import Prompt, class_files, load_prompts, rows_of
from saebench.evaluators.entities.pairs import Pairs, answer, known_prompts, make_pairs
from saebench.evaluators.entities.protocol import read_ravel_protocol
from saebench.evaluators.forgetting.protocol import read_pair, read_unlearning_protocol
from saebench.evaluators.forgetting.questions import ORDERS, Asker, ChoiceQuestion, Orders, read_questions
from saebench.lm import Cut, LanguageModel
from saebench.lm.ends import end_logits
from saebench.lm.prompts import Prompts
from saebench.text.corpus import TokenCorpus, load_corpus

CLASS = "city"
ROW = 128
"""Tokens of a row of text."""
PAIR = "sciq-openbookqa"
SIDES = ("forget", "retain")


@dataclass(frozen=True)
class Asking:
    """Sizes of the samples.

    Attributes:
        entities: cities.
        templates: for each attribute.
        pairs: of prompts for each attribute.
        batch: of pairs, for both programs. SAEBench leaves out a last batch that is smaller.
        questions: of each kind.
        rows: of ``ROW`` tokens of the text to forget and of the retained one.
        latents: explained.
        text: tokens that autointerp takes windows from.
    """

    entities: int = 100
    templates: int = 8
    pairs: int = 80
    batch: int = 16
    questions: int = 40
    rows: int = 64
    latents: int = 100
    text: int = 16384


def entities_folder(data_dir: Path, sizes: Asking, folder: Path) -> Path:
    """A data folder with some cities and some templates of RAVEL's."""
    of_entities, of_templates = class_files(CLASS)
    lines = (data_dir / of_entities).read_text().splitlines()
    drawn = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0))[: sizes.entities].tolist()
    templates = json.loads((data_dir / of_templates).read_text())
    wanted = {name: templates[name][: sizes.templates] for name in read_ravel_protocol().classes[CLASS]}
    (folder / "ravel").mkdir(parents=True)
    (folder / of_entities).write_text("\n".join(lines[index] for index in drawn) + "\n")
    (folder / of_templates).write_text(json.dumps(wanted))
    return folder


def given_pairs(folder: Path, sizes: Asking, cut: Cut, seed: int) -> tuple[list[Prompt], dict[str, Pairs]]:
    """Our prompts, and our pairs of them for each attribute."""
    protocol = read_ravel_protocol()
    attributes = protocol.classes[CLASS]
    prompts, _ = load_prompts(folder, CLASS, attributes, protocol.data.prompts, cut.model.tokenizer, False, seed)
    answers = answer(rows_of(cut, prompts), prompts, protocol.data.tokens, lambda amount: None)
    known = known_prompts(prompts, answers.right, protocol.data.entities)
    made = {each: make_pairs(prompts, known, answers.first, each, sizes.pairs, seed) for each in attributes}
    return prompts, {name: pairs for name, pairs in made.items() if not isinstance(pairs, str)}


def written_pairs(prompts: Sequence[Prompt], pairs: dict[str, Pairs]) -> dict[str, Any]:
    """Prompts by their text and pairs in their order, as JSON."""
    return {
        "prompts": {each.text: [list(each.ids), each.position - len(each.ids)] for each in prompts},
        "pairs": {
            name: [[prompts[base].text, prompts[source].text, cause] for base, source, cause in
                   zip(each.base.tolist(), each.source.tolist(), each.cause.tolist(), strict=True)]
            for name, each in pairs.items()
        },
    }  # fmt: skip


def entity_files(folder: Path) -> dict[str, Any]:
    """The folder's cities and templates in SAEBench's files, by name; all are of one split, which its runner ignores."""
    of_entities, of_templates = class_files(CLASS)
    entities = {row.pop("entity"): row for row in map(json.loads, (folder / of_entities).read_text().splitlines())}
    templates: dict[str, list[str]] = json.loads((folder / of_templates).read_text())
    every = [each for some in templates.values() for each in some]
    return {
        "entity_attributes": entities, "attribute_to_prompts": templates,
        "entity_to_split": dict.fromkeys(entities, "train"), "prompt_to_split": dict.fromkeys(every, "train"),
    }  # fmt: skip


def without_template(model: LanguageModel) -> LanguageModel:
    """The model with its chat template taken away, as SAEBench has one of its own for each model that it knows."""
    model.tokenizer.chat_template = None
    return model


def asker(model: LanguageModel) -> Asker:
    """Of questions without a chat template, after BOS."""
    return Asker(model.tokenizer, read_unlearning_protocol().questions, bos=True)


def questions_of(data_dir: Path, side: str, most: int) -> list[ChoiceQuestion]:
    """Those of a side of the pair."""
    return [each for file in getattr(read_pair(PAIR), side).questions for each in read_questions(data_dir, file)[:most]]


def known_in_own_order(
    cut: Cut, by: Asker, questions: Sequence[ChoiceQuestion], advance: Callable[[float], None]
) -> list[int]:
    """In place of ``known_questions``: those right in their own order, which are then asked in the 23 others too."""
    orders = Orders(cut, by, questions)
    known = orders.right(0, range(len(questions)))
    for order in range(1, len(ORDERS)):
        orders.right(order, known)
    return known


def texts_of(data_dir: Path, sizes: Asking, model: LanguageModel, seed: int) -> dict[str, TokenCorpus]:
    """The text to forget and the retained one, as ours reads them."""
    pair = read_pair(PAIR)
    sides = {side: getattr(pair, side) for side in SIDES}
    return {
        side: load_corpus(
            str(data_dir / each.text), model.tokenizer, context=ROW, tokens=sizes.rows * ROW, bos="row", field=each.field,
            shuffle_seed=seed,
        )
        for side, each in sides.items()
    }  # fmt: skip


def unlearning_files(data_dir: Path, sizes: Asking, cut: Cut, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(questions, tokens)`` for SAEBench: each side's questions, which of them are known, and its text."""
    model, protocol = cut.model, read_unlearning_protocol()
    found: dict[str, Any] = {"format": f"{model.tokenizer.bos_token}{{prompt}}\n", "before": protocol.questions.before}
    for side in SIDES:
        questions = questions_of(data_dir, side, sizes.questions)
        known = Orders(cut, asker(model), questions).right(0, range(len(questions)))
        listed = [{"question": each.text, "choices": list(each.options), "answer": each.right} for each in questions]
        found[side] = {"subject": questions[0].subject, "known": known, "questions": listed}
    return found, {side: text.tokens for side, text in texts_of(data_dir, sizes, model, seed).items()}


class Counted(Prompts):
    """Counts the tokens that completions feed back into the model."""

    fed = 0

    def complete(self, *arguments: Any, **named: Any) -> list[list[int]]:
        found = super().complete(*arguments, **named)
        self.fed += sum(len(each) - 1 for each in found)
        return found


def ravel_passes(folder: Path, sizes: Asking, cut: Cut, saes: int, seed: int) -> tuple[float, float]:
    """``(below, above)``: tokens that have to pass the layers below the hook and above it; a gradient counts as a pass.

    What a template's prompts share passes once, and completions end once it is known whether they are right. Prompts are
    answered once; for each attribute a mask is trained on pairs, and others are answered with it.
    """
    protocol = read_ravel_protocol()
    attributes = protocol.classes[CLASS]
    prompts, _ = load_prompts(folder, CLASS, attributes, protocol.data.prompts, cut.model.tokenizer, False, seed)
    rows = Counted(cut, [each.ids for each in prompts], [each.head for each in prompts])
    answer(rows, prompts, protocol.data.tokens, lambda amount: None)
    tail = sum(len(each.ids) - each.head for each in prompts) / len(prompts)
    heads = sum(map(len, {each.ids[: each.head] for each in prompts}))
    answered = tail + rows.fed / len(prompts)
    pairs = 2 * sizes.pairs * len(attributes) * saes
    asked = heads + len(prompts) * answered + pairs * (1 - protocol.data.train) * answered
    return asked, asked + pairs * protocol.data.train * protocol.mask.epochs * 2 * tail


def unlearning_passes(data_dir: Path, sizes: Asking, cut: Cut, saes: int, clamped: int, seed: int) -> tuple[float, float]:
    """As ``ravel_passes``: both texts, all questions, what the known ones' other orders add, and ``clamped`` tokens.

    Orders that begin alike share those tokens.
    """
    by = asker(cut.model)
    texts = sum(each.tokens.numel() for each in texts_of(data_dir, sizes, cut.model, seed).values())
    asked = first = 0
    for side in SIDES:
        questions = questions_of(data_dir, side, sizes.questions)
        orders = Orders(cut, by, questions)
        known = orders.right(0, range(len(questions)))
        asked += sum(len(each[0].ids) for each in orders.asked)
        first += sum(len(orders.asked[number][0].ids) for number in known)
        asked += sum(len({each.ids[: end + 1] for each in orders.asked[number] for end in range(len(each.ids))})
                     - len(orders.asked[number][0].ids) for number in known)  # fmt: skip
    return texts + asked + saes * first, asked + clamped


@dataclass
class Clamped:
    """Counts the tokens that pass the layers above the hook with clamped latents."""

    tokens: int = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Within this context."""

        def logits(model: LanguageModel, ends: Tensor, run: Callable[[], Tensor]) -> Tensor:
            self.tokens += int((ends + 1).sum())
            return end_logits(model, ends, run)

        with patch("saebench.evaluators.forgetting.latents.end_logits", logits):
            yield


@contextmanager
def a_small_model_will_do(sizes: Asking) -> Iterator[None]:
    """Ours asks about cities alone, in SAEBench's batches, and takes the questions that are right in one order for known."""
    protocol = read_ravel_protocol()
    changed = protocol.model_copy(
        update={
            "classes": {CLASS: protocol.classes[CLASS]}, "least": protocol.least.model_copy(update={"prompts": 1}),
            "mask": protocol.mask.model_copy(update={"batch": sizes.batch}),
        }
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(patch("saebench.evaluators.ravel.read_ravel_protocol", lambda: changed))
        stack.enter_context(patch("saebench.evaluators.unlearning.known_questions", known_in_own_order))
        yield
