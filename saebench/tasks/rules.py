"""From rows to labelled texts, by a task's rule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saebench.errors import SaebenchError
from saebench.tasks.definition import Rule
from saebench.tasks.sources import Row, lookup

_FIELD = re.compile(r"\{([\w .\-]+)\}")


@dataclass(frozen=True)
class Example:
    """A labelled text.

    Attributes:
        text: what the language model reads.
        label: 0 or 1.
        group: texts of one group stay in one part of a split.
    """

    text: str
    label: int
    group: str


def make_examples(rows: Iterable[Row], rule: Rule) -> tuple[list[Example], int]:
    """``(examples, rows that gave none)``: rows whose label the rule does not name, or that it cannot parse.

    Raises:
        SaebenchError: a column that the rule names does not exist.
    """
    examples: list[Example] = []
    unused = 0
    expression = re.compile(rule.parse) if rule.parse else None
    for row in rows:
        parsed = _parsed(row, expression, rule.parse_from)
        found = _KINDS[rule.kind](parsed, rule) if parsed is not None else []
        unused += not found
        examples += found
    return examples, unused


def _parsed(row: Row, expression: re.Pattern[str] | None, column: str) -> Row | None:
    if expression is None:
        return row
    match = expression.search(str(lookup(row, column)))
    return row | match.groupdict(default="") if match else None


def _labelled(row: Row, rule: Rule) -> list[Example]:
    value = str(lookup(row, rule.label))
    if value in rule.positive:
        label = 1
    elif value in rule.negative or not rule.negative:
        label = 0
    else:
        return []
    return [_example(row, rule, label, {})]


def _choices(row: Row, rule: Rule) -> list[Example]:
    if rule.right:
        right = str(lookup(row, rule.right))
        wrong = [each for each in _values(row, rule.wrong) if each.strip()]
    else:
        options = _values(row, rule.options)
        index = _index(lookup(row, rule.answer), rule.first)
        if not 0 <= index < len(options):
            return []
        right, wrong = options[index], options[:index] + options[index + 1 :]
    wrong = [each for each in wrong if each != right]
    if not right.strip() or not wrong:
        return []
    drawn = wrong[_hash_number(filled(rule.text, row, {"option": right})) % len(wrong)]
    return [_example(row, rule, 1, {"option": right}), _example(row, rule, 0, {"option": drawn})]


def _ordered_pair(row: Row, rule: Rule) -> list[Example]:
    better, worse = str(lookup(row, rule.better)), str(lookup(row, rule.worse))
    if better == worse:
        return []
    first = _hash_number(f"{better}\n{worse}") % 2
    names = {"first": better, "second": worse} if first else {"first": worse, "second": better}
    return [_example(row, rule, int(first), names)]


def _example(row: Row, rule: Rule, label: int, names: dict[str, str]) -> Example:
    text = filled(rule.text, row, names)
    if rule.remove:
        text = re.sub(rule.remove, "", text)
    return Example(text, label, filled(rule.group, row, names) if rule.group else text)


def filled(template: str, row: Row, names: Mapping[str, str] | None = None) -> str:
    """A template with its fields replaced by ``names``, else by the row's columns.

    Raises:
        SaebenchError: there is no such column.
    """
    return _FIELD.sub(lambda match: (names or {}).get(match[1]) or str(lookup(row, match[1])), template)


def _values(row: Row, columns: Sequence[str]) -> list[str]:
    """The columns' values; a single column that holds a list gives its items."""
    values = [lookup(row, column) for column in columns]
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = list(values[0])
    return [str(value) for value in values]


def _index(answer: Any, first: int) -> int:
    """The index of an answer that is given by letter or by number."""
    word = str(answer).strip()
    if len(word) == 1 and word.isalpha():
        return ord(word.upper()) - ord("A")
    try:
        return int(word) - first
    except ValueError as error:
        raise SaebenchError(f"an answer is neither a letter nor a number ({word!r})") from error


def _hash_number(text: str) -> int:
    """A number that depends on the text alone, so that the choice does not depend on the order of the rows."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


_KINDS = {"labelled": _labelled, "choices": _choices, "ordered_pair": _ordered_pair}
