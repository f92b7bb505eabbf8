"""What SAEBench's evaluations read: protocols and pairs, entities with their templates, multiple-choice questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saebench import definitions
from saebench.evaluators.entities.data import load_prompts
from saebench.evaluators.entities.protocol import read_ravel_protocol
from saebench.evaluators.first_letter.protocol import read_first_letter_protocol
from saebench.evaluators.forgetting.protocol import PAIRS, QuestionFile, read_pair, read_unlearning_protocol
from saebench.evaluators.forgetting.questions import MOST_OPTIONS, read_questions
from saebench.explaining.autointerp.protocol import read_autointerp_protocol
from tests.fuzz.definition_readers import kept_in
from tests.fuzz.reader import Case, Reader

FILES = {"probes": ("first-letter", "ravel", "unlearning"), "explain": ("saebench",), PAIRS: ("wmdp-bio", "sciq-openbookqa")}


class Letters:
    """A tokenizer whose tokens are characters."""

    bos_token_id = 1

    def __call__(self, texts: list[str], **settings: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def _definitions(_: Path) -> list[Case]:
    files = {
        f"{kind}/{name}.toml": definitions.definition_file(kind, name).read_bytes()
        for kind, names in FILES.items()
        for name in names
    }
    return [Case(files)]


def _read_definitions(path: Path, case: Case, kind: str) -> None:
    with kept_in(path):
        read = [read_first_letter_protocol(), read_ravel_protocol(), read_unlearning_protocol(), read_autointerp_protocol()]
        pairs = [read_pair(name) for name in FILES[PAIRS]]
        for pair in pairs:
            pair.missing(path)
    json.dumps([each.model_dump() for each in (*read, *pairs)], allow_nan=False)


def _entities(_: Path) -> list[Case]:
    rows = [json.dumps({"entity": f"town {n}", "Country": f"land {n % 3}"}) for n in range(20)]
    templates = {"Country": ["%s is in", "people of %s live in"]}
    return [
        Case({"ravel/city.jsonl": "\n".join(rows).encode(),
              "ravel/city_attribute_to_prompts.json": json.dumps(templates).encode()})
    ]  # fmt: skip


def _read_entities(path: Path, case: Case, kind: str) -> None:
    prompts, left_out = load_prompts(path, "city", ("Country",), 10, Letters(), True, 0)
    assert len(prompts) + left_out <= 10
    for prompt in prompts:
        assert prompt.ids[0] == 1 and prompt.ids[prompt.position] == ord(prompt.entity[-1]) and prompt.label is not None


def _questions(_: Path) -> list[Case]:
    listed = [json.dumps({"q": f"what is {n}", "o": [f"a{n}", f"b{n}", "c"], "a": "ABC"[n % 3]}) for n in range(20)]
    apart = [json.dumps({"q": f"what is {n}", "r": f"a{n}", "w": {"x": "b", "y": f"c{n}"}}) for n in range(20)]
    forms = [{"choices": "o", "answer": "a"}, {"correct": "r", "wrong": ["w.x", "w.y"]}]
    return [
        Case({"q.jsonl": "\n".join(rows).encode()}, given={"form": form})
        for rows, form in zip((listed, apart), forms, strict=True)
    ]


def _read_questions(path: Path, case: Case, kind: str) -> None:
    of = QuestionFile(subject="numbers", file="q.jsonl", question="q", **case.given["form"])
    for question in read_questions(path, of):
        assert 2 <= len(question.options) <= MOST_OPTIONS and 0 <= question.right < len(question.options)
        assert all(isinstance(each, str) for each in (question.text, *question.options))


READERS = [
    Reader("suite_definitions", _definitions, _read_definitions),
    Reader("entities", _entities, _read_entities),
    Reader("questions", _questions, _read_questions),
]
