"""Planted repetitions: none crosses."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from saebench.errors import SaebenchError
from saebench.tasks.rules import Example
from saebench.tasks.splits import clean, split, text_key

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


def questions(count: int) -> list[Example]:
    """Both answers of each question; a text with the wrong answer has label 0."""
    return [Example(f"question {i}: answer {label}", label, f"question {i}") for i in range(count) for label in (0, 1)]


def test_planted_duplicates_never_cross() -> None:
    originals = questions(150)
    exact = originals[::2]
    near = [Example(each.text.upper().replace(" ", "  ") + "!", each.label, each.group + " ") for each in originals[::3]]
    cleaned = clean([*originals, *exact, *near, *near], "words")
    assert (cleaned.exact, cleaned.near) == (len(exact) + len(near), len(near))
    assert len(cleaned.examples) == len(originals)
    parts = split(cleaned.examples, SHARES, 200, "words", 0)
    where: dict[str, set[str]] = {}
    groups: dict[str, set[str]] = {}
    for name, part in parts.items():
        for example in part:
            where.setdefault(text_key(example.text, "words"), set()).add(name)
            groups.setdefault(example.group.strip(), set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert all(len(names) == 1 for names in groups.values())


def test_a_duplicate_under_another_group_does_not_cross_either() -> None:
    originals = questions(150)
    planted = [Example(each.text, each.label, f"other {number}") for number, each in enumerate(originals)]
    cleaned = clean([*originals, *planted], "words")
    parts = split(cleaned.examples, SHARES, 300, "words", 3)
    texts = Counter(example.text for part in parts.values() for example in part)
    assert max(texts.values()) == 1 and cleaned.exact == len(planted)


def test_texts_with_both_labels_are_left_out_on_both_sides() -> None:
    cleaned = clean(
        [Example("Same.", 0, "a"), Example("same", 1, "b"), Example("other", 1, "c"), Example(" ", 0, "d")], "words"
    )
    assert [example.text for example in cleaned.examples] == ["other"]
    assert (cleaned.conflicting, cleaned.empty, cleaned.exact, cleaned.near) == (2, 1, 0, 0)


def test_operators_count_in_arithmetic_only() -> None:
    sums = [Example("8 6 +", 0, "a"), Example("8 6 *", 1, "b"), Example("8  6 *", 1, "c")]
    assert clean(sums, "words").conflicting == 3
    kept = clean(sums, "spaces")
    assert len(kept.examples) == 2 and kept.near == 1 and kept.conflicting == 0


def test_parts_are_balanced_and_of_the_requested_sizes() -> None:
    parts = split(questions(400), SHARES, 400, "words", 0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 240, "validation": 60, "test": 100}
    for part in parts.values():
        labels = [example.label for example in part]
        assert labels == sorted(labels) and sum(labels) * 2 == len(labels)


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    examples = questions(300)
    first = split(examples, SHARES, 200, "words", 0)
    assert split(examples[::-1], SHARES, 200, "words", 0) == first
    assert split(examples, SHARES, 200, "words", 1) != first


@pytest.mark.parametrize("seed", range(12))
def test_no_group_is_ever_divided(seed: int) -> None:
    generator = random.Random(seed)
    groups, count = generator.randint(30, 200), generator.randint(300, 600)
    examples = [Example(f"text {i}", generator.randint(0, 1), f"group {generator.randrange(groups)}") for i in range(count)]
    parts = split(examples, SHARES, 200, "words", seed)
    sides: dict[str, set[str]] = {}
    for name, part in parts.items():
        assert sum(each.label for each in part) * 2 == len(part) > 0
        for each in part:
            sides.setdefault(each.group, set()).add(name)
    assert all(len(names) == 1 for names in sides.values())


def test_groups_too_large_to_split_are_an_error() -> None:
    examples = [Example(f"text {i}", i % 2, "one story") for i in range(300)]
    with pytest.raises(SaebenchError, match="cannot be split"):
        split(examples, SHARES, 200, "words", 0)


def test_too_few_examples_and_one_class_are_errors() -> None:
    with pytest.raises(SaebenchError, match="only 49 different"):
        split(questions(49), SHARES, 400, "words", 0)
    with pytest.raises(SaebenchError, match="one class"):
        split([each for each in questions(100) if each.label], SHARES, 400, "words", 0)
