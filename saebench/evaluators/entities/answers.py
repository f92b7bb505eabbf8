"""Completions of prompts, and whether one answers the question about an attribute, by RAVEL's rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from saebench.lm import Prefix
from saebench.lm.prompts import Prompts

NAMES_WITH_RULES = ("United States", "United Kingdom", "South Korea", "North America", "Mandarin")
PLACES = ("coord", "latitude", "longitude")


def ask(
    rows: Prompts, numbers: Sequence[int], asked: Sequence[tuple[str, str]], steps: int, outputs: Tensor | None = None,
    prefix: Prefix | None = None,
) -> tuple[list[int], list[bool]]:  # fmt: skip
    """The first token of each prompt's completion, and whether the completion is right.

    Args:
        rows, numbers, steps, outputs, prefix: as for ``Prompts.complete``.
        asked: text and label of each prompt.
    """
    tokenizer = rows.cut.model.tokenizer
    whole = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))  # later tokens may change the text before them

    def is_decided(place: int, tokens: list[int]) -> bool:
        return not whole and is_settled(*asked[place], tokenizer.decode(tokens))

    found = rows.complete(numbers, steps, outputs, prefix, is_decided)
    texts = tokenizer.batch_decode(found)
    right = [is_right(text, label, completion) for (text, label), completion in zip(asked, texts, strict=True)]
    return [each[0] for each in found], right


def is_settled(text: str, label: str, completion: str) -> bool:
    """Whether ``is_right`` says of every longer completion what it says of this one; False where that is not sure."""
    if any(name in label for name in NAMES_WITH_RULES) or any(word in text for word in PLACES):
        return False
    if not completion.isascii() or ("language" in text and "," in label):  # a character may be incomplete
        return False
    if '"' in completion or not label:
        return True
    wanted, found = label.lower(), completion.replace("\\/", "/").strip(" ").rstrip("\\ ").lower()
    return len(found) > len(wanted) if found.startswith(wanted) else not wanted.startswith(found)


def is_right(text: str, label: str, completion: str) -> bool:
    """Whether ``completion`` of the prompt ``text`` names ``label``; some labels have other names that count."""
    if not label:
        return False
    found = completion.split('"')[0].strip(' "').replace("\\/", "/").lower()
    if not found:
        return False
    wanted = label.lower()
    if any(word in text for word in PLACES):
        return _within_two_degrees(wanted, found)
    if "United States" in label or "United Kingdom" in label:
        bare = completion.strip().replace("the ", "")
        return bare.startswith(label.strip().replace("the ", "")) or bare.startswith("England")
    if "South Korea" in label:
        return found.startswith(("korea", "south korea"))
    if "North America" in label:
        return wanted in found or found == "na" or found.startswith("america")
    if "Mandarin" in label:
        return found in wanted or found == "chinese"
    if "language" in text and "," in wanted:
        return any(language in found for language in wanted.split(","))
    return found.startswith(wanted) if len(wanted) < len(found) else wanted.startswith(found)


def _within_two_degrees(wanted: str, found: str) -> bool:
    numbers = re.findall(r"\d+", found)
    try:
        return bool(numbers) and abs(float(wanted.strip("-−")) - float(numbers[0])) <= 2
    except ValueError:
        return False
