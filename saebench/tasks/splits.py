"""Splits without leakage: no text twice, no source row in two parts, balanced classes."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saebench.errors import SaebenchError
from saebench.tasks.rules import Example

LEAST_OF_A_CLASS = 50

_NOT_WORDS = re.compile(r"[^\w]+|_+")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Cleaned:
    """Examples without duplicates.

    Attributes:
        examples: each text once.
        exact: how many were removed because the same text came before; ``near``, because an equivalent text did.
        conflicting: how many were removed because their text occurs with both labels.
        empty: how many had no text.
    """

    examples: list[Example]
    exact: int
    near: int
    conflicting: int
    empty: int


def clean(examples: Sequence[Example], same: str) -> Cleaned:
    """Remove duplicates. ``same`` says when two texts count as duplicates; see ``Task``."""
    labels: dict[str, set[int]] = {}
    keys = [text_key(example.text, same) for example in examples]
    for key, example in zip(keys, examples, strict=True):
        labels.setdefault(key, set()).add(example.label)
    kept: list[Example] = []
    seen: dict[str, set[str]] = {}
    exact = near = conflicting = empty = 0
    for key, example in zip(keys, examples, strict=True):
        if not example.text.strip():
            empty += 1
        elif len(labels[key]) > 1:
            conflicting += 1
        elif key in seen:
            exact += example.text in seen[key]
            near += example.text not in seen[key]
            seen[key].add(example.text)
        else:
            seen[key] = {example.text}
            kept.append(example)
    return Cleaned(kept, exact, near, conflicting, empty)


def text_key(text: str, same: str) -> str:
    """A key that is equal for texts that count as duplicates."""
    plain = unicodedata.normalize("NFKC", text)
    if same == "words":
        words = _NOT_WORDS.sub(" ", plain.casefold()).strip()
        if words:  # a text of punctuation alone keeps it as its key
            return words
    return _SPACES.sub(" ", plain).strip()


def split(
    examples: Sequence[Example], shares: Mapping[str, float], most: int, same: str, seed: int
) -> dict[str, list[Example]]:
    """Sample balanced parts in which no group occurs twice.

    Groups come in random order; each goes to one of the parts that still need examples of its classes, with a probability
    proportional to that need. Examples of a group that its part cannot use are dropped.

    Args:
        examples: cleaned.
        shares: of each part; they add up to 1.
        most: maximum number of examples.
        same: when two groups count as duplicates; see ``Task``.
        seed: of the sampling.

    Raises:
        SaebenchError: fewer than 50 examples of a class are left, or only one class.
    """
    counts = [sum(example.label == label for example in examples) for label in (0, 1)]
    if min(counts) == 0:
        raise SaebenchError(f"all of its {sum(counts)} examples are of one class")
    if min(counts) < LEAST_OF_A_CLASS:
        raise SaebenchError(f"a class has only {min(counts)} different examples, fewer than {LEAST_OF_A_CLASS}")
    per_class = min(most // 2, min(counts))
    need = {name: [round(per_class * share)] * 2 for name, share in shares.items()}
    generator = random.Random(seed)
    parts: dict[str, list[Example]] = {name: [] for name in shares}
    for group in _groups(examples, same, generator):
        weights = [sum(max(0, need[name][label]) for label in {each.label for each in group}) for name in parts]
        if not any(weights):
            continue
        name = generator.choices(list(parts), weights)[0]
        for example in group:
            if need[name][example.label] > 0:
                need[name][example.label] -= 1
                parts[name].append(example)
    return {name: _balanced(part, name) for name, part in parts.items()}


def _groups(examples: Sequence[Example], same: str, generator: random.Random) -> list[list[Example]]:
    """Examples by group, groups and their members in random order that does not depend on the order of the rows."""
    by_group: dict[str, list[Example]] = {}
    for example in examples:
        by_group.setdefault(text_key(example.group, same), []).append(example)
    ordered = [sorted(by_group[key], key=lambda each: (each.text, each.label)) for key in sorted(by_group)]
    generator.shuffle(ordered)
    for group in ordered:
        generator.shuffle(group)
    return ordered


def _balanced(part: list[Example], name: str) -> list[Example]:
    """Equally many of both classes, those of label 0 first."""
    classes = [[example for example in part if example.label == label] for label in (0, 1)]
    smaller = min(map(len, classes))
    if smaller == 0:
        raise SaebenchError(f"its groups cannot be split so that {name} has examples of both classes")
    return [*classes[0][:smaller], *classes[1][:smaller]]
