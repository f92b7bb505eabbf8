"""Sets of classes of the tiny model's words, whose classes have words of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from saebench import definitions
from saebench.tasks import sources

DEFINITION = """
title = "t"
licence = "l"
citation = "c"
local = ["{name}.jsonl"]
{more}
[rows]
text = "{{text}}"
label = "label"
second = "other"

[second]
left = ["0"]
right = ["1"]

[classes]
one = ["0"]
two = ["1"]
three = ["2"]
"""
SPAN = 20
"""Words that a class, and a value of the second attribute, has for itself."""


def words_of(label: int, other: int, draw: random.Random) -> str:
    """Six words: two of the class, two of the second attribute, two of any text."""
    own = [3 + SPAN * label + draw.randrange(SPAN) for _ in range(2)]
    second = [103 + SPAN * other + draw.randrange(SPAN) for _ in range(2)]
    return " ".join(f"w{each}" for each in [*own, *second, *(143 + draw.randrange(50) for _ in range(2))])


def write_sets(folder: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """Definitions of ``names``, the data of all but ``gone``, and a cache of one's own."""
    place = folder / "tasks" / "classes"
    place.mkdir(parents=True)
    original = definitions.definition_folder
    for number, name in enumerate(names):
        (place / f"{name}.toml").write_text(DEFINITION.format(name=name, more=more))
        if name == "gone":
            continue
        draw = random.Random(number)
        rows = [
            {"text": words_of(index % 3, index // 3 % 2, draw), "label": index % 3, "other": index // 3 % 2,
             "split": "train" if index % 5 else "test"}
            for index in range(1200)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def folder_of(kind: str) -> Path:
        return place if kind == "tasks/classes" else original(kind)

    monkeypatch.setattr(definitions, "definition_folder", folder_of)
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)
    monkeypatch.setenv("SAEBENCH_CACHE", str(folder / "cache"))
