"""Entities with their attributes, templates that ask for them, and the prompts made of both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saebench.errors import SaebenchError
from saebench.lm import Cut
from saebench.lm.positions import last_tokens
from saebench.lm.prompts import Prompts, in_common
from saebench.parsing import parse_json
from saebench.tasks.sources import inside

SOURCE = "the RAVEL data (github.com/explanare/ravel, as in SAEBench's adamkarvonen/ravel_prompts on the hub)"


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: a template with an entity in it.
        entity, attribute, label: the entity, what the template asks for, and the answer.
        ids: token ids, with BOS where there is one; ``position`` is that of the entity's last token.
        position: see ``ids``.
        head: number of leading tokens that all prompts of the template share; at most ``position``.
    """

    text: str
    entity: str
    attribute: str
    label: str
    ids: tuple[int, ...]
    position: int
    head: int = 0


def rows_of(cut: Cut, prompts: Sequence[Prompt]) -> Prompts:
    """The prompts' tokens, to be run."""
    return Prompts(cut, [each.ids for each in prompts], [each.head for each in prompts])


def class_files(name: str) -> tuple[str, str]:
    """The files of a class of entities, below the data folder: attributes of each, and templates."""
    return f"ravel/{name}.jsonl", f"ravel/{name}_attribute_to_prompts.json"


def missing_files(folder: Path | None, classes: Sequence[str]) -> list[str]:
    """The files that a data folder lacks."""
    names = [name for each in classes for name in class_files(each)]
    return [name for name in names if folder is None or not inside(folder, name).is_file()]


def data_hash(folder: Path, classes: Sequence[str]) -> str:
    """SHA-256 of all files."""
    digest = hashlib.sha256()
    for name in (file for each in classes for file in class_files(each)):
        digest.update(inside(folder, name).read_bytes())
    return digest.hexdigest()


def load_prompts(
    folder: Path, name: str, attributes: Sequence[str], most: int, tokenizer: Any, bos: bool, seed: int
) -> tuple[list[Prompt], int]:
    """Prompts of a class of entities, at most ``most`` in random order, and how many were left out because the entity does
    not end a token.

    Raises:
        SaebenchError: a file is damaged, or lacks an attribute.
    """
    entities, templates = _read(folder, name, attributes)
    plan = [(row, attribute, template) for attribute in attributes for template in templates[attribute] for row in entities]
    order = torch.randperm(len(plan), generator=torch.Generator().manual_seed(seed))[:most].tolist()
    drawn = [plan[index] for index in order]
    parts = [(template.partition("%s"), row["entity"]) for row, _, template in drawn]
    texts = [f"{before}{entity}{after}" for (before, _, after), entity in parts]
    found = last_tokens(tokenizer, [f"{before}{entity}" for (before, _, _), entity in parts], texts)
    front = (tokenizer.bos_token_id,) if bos else ()
    prompts: list[Prompt] = []
    of_template: dict[str, list[int]] = {}
    for (row, attribute, template), text, one in zip(drawn, texts, found, strict=True):
        if one is not None:
            ids, position = one
            of_template.setdefault(template, []).append(len(prompts))
            prompts.append(Prompt(text, row["entity"], attribute, row[attribute], (*front, *ids), position + len(front)))
    for numbers in of_template.values():
        shared = in_common([prompts[number].ids for number in numbers])
        head = min(shared, *(prompts[number].position for number in numbers))
        for number in numbers:
            prompts[number] = replace(prompts[number], head=head)
    return prompts, len(drawn) - len(prompts)


def _read(folder: Path, name: str, attributes: Sequence[str]) -> tuple[list[dict[str, str]], dict[str, list[str]]]:
    of_entities, of_templates = class_files(name)
    try:
        lines = inside(folder, of_entities).read_text(encoding="utf-8").splitlines()
        entities = [parse_json(line) for line in lines if line.strip()]
        templates = parse_json(inside(folder, of_templates).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SaebenchError(f"{of_entities} or {of_templates} is not readable ({error}): get {SOURCE} again.") from error
    for attribute in attributes:
        asked = templates.get(attribute) if isinstance(templates, dict) else None
        if not isinstance(asked, list) or not all(isinstance(each, str) and each.count("%s") == 1 for each in asked):
            raise SaebenchError(f"{of_templates} has no list of templates with one %s for {attribute}.")
        if not all(isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("entity", attribute))
                   for row in entities):  # fmt: skip
            raise SaebenchError(f"An entity in {of_entities} has no {attribute}.")
    return entities, templates
