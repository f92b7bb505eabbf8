"""Sets of several classes: from a definition in ``tasks/classes/`` to texts by class, cleaned and split.

A second attribute of the texts (the gender of a biography's subject, the stars of a review) balances the classes, or is
the spurious one of spurious correlation removal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from saebench.definitions import definition_names, own_definitions
from saebench.errors import SaebenchError
from saebench.parsing import names_in
from saebench.tasks.definition import SOURCES, Sourced, Strict, read_sourced
from saebench.tasks.rules import filled
from saebench.tasks.sources import Row, load_rows, lookup
from saebench.tasks.splits import text_key

LEAST_OF_A_CLASS = 20
"""Texts of a class in each part."""
PARTS = ("train", "test")


class ClassRule(Strict):
    """How a row becomes a text of a class.

    Attributes:
        text: template, as a task has it; ``remove``: regular expression of what is removed from the text.
        label: the column with the class; ``second``: that with the second attribute.
        part: the column that says ``train`` or ``test``, where rows have it.
    """

    text: str
    remove: str = ""
    label: str
    second: str = ""
    part: str = "split"


class ClassSet(Sourced):
    """Texts of several classes.

    Attributes:
        classes: the label column's values by class; ``probed``: the classes that are probed, all where it is empty.
        second: the values of the second attribute's column, by name: two, or none where there is no such attribute.
        pairs: pairs of classes for spurious correlation removal.
        rows: how they are read; ``hub_rows``, ``local_rows`` and ``sae_probes_rows`` where a source's columns differ.
    """

    classes: dict[str, tuple[str, ...]]
    probed: tuple[str, ...] = ()
    second: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()
    rows: ClassRule | None = None
    hub_rows: ClassRule | None = None
    local_rows: ClassRule | None = None
    sae_probes_rows: ClassRule | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ClassSet:
        named = {*self.probed, *(each for pair in self.pairs for each in pair)}
        if len(self.classes) < 2 or named - set(self.classes):
            raise ValueError("it has fewer than two classes, or probes one that it does not define")
        if len(self.second) not in (0, 2) or (self.pairs and not self.second):
            raise ValueError("a second attribute has two values, and pairs need one")
        given = [source for source in SOURCES if getattr(self, source)]
        if not given or not all(self.rule(source) for source in given):
            raise ValueError("it names no source, or not how rows of one are read")
        return self

    def rule(self, source: str) -> ClassRule | None:
        """How rows of a source are read."""
        found: ClassRule | None = getattr(self, f"{source}_rows") or self.rows
        return found

    @property
    def wanted(self) -> tuple[str, ...]:
        """The classes that are probed."""
        return self.probed or tuple(self.classes)


class Cell(NamedTuple):
    """Texts that have a class and a value of the second attribute (empty where there is none)."""

    label: str
    second: str


@dataclass(frozen=True)
class ClassTexts:
    """A set's different texts.

    Attributes:
        of: the definition.
        parts: ``train`` and ``test``: texts by cell, in random order.
        record: where they come from and what was left out; JSON data.
    """

    of: ClassSet
    parts: dict[str, dict[Cell, list[str]]]
    record: dict[str, Any]

    def one_against_rest(self, train: int, test: int) -> dict[str, dict[str, list[str]]]:
        """By part and class: half of ``train`` and ``test`` texts a class, or as many as the smallest class has.

        Where there is a second attribute, each class has equally many texts of either value.

        Raises:
            SaebenchError: a class has too few texts.
        """
        seconds = tuple(self.of.second) or ("",)
        found: dict[str, dict[str, list[str]]] = {}
        for part, most in zip(PARTS, (train, test), strict=True):
            cells = self.parts[part]
            size = min(most // 2 // len(seconds),
                       *(len(cells.get(Cell(each, value), ())) for each in self.of.wanted for value in seconds))  # fmt: skip
            self._enough(size * len(seconds), part)
            found[part] = {
                each: [text for value in seconds for text in cells[Cell(each, value)][:size]] for each in self.of.wanted
            }
        return found

    def quadrants(self, pair: tuple[str, str], train: int, test: int) -> dict[str, dict[Cell, list[str]]]:
        """By part and cell of a pair of classes: a quarter of ``train`` and ``test`` texts, twice that on the diagonal.

        The diagonal holds the biased set: texts of the first class with the first value, of the second with the second.

        Raises:
            SaebenchError: there are too few texts.
        """
        first, second = self.of.second
        found: dict[str, dict[Cell, list[str]]] = {}
        for part, most in zip(PARTS, (train, test), strict=True):
            cells = {
                Cell(each, value): self.parts[part].get(Cell(each, value), []) for each in pair for value in self.of.second
            }
            biased = (Cell(pair[0], first), Cell(pair[1], second))
            size = min(most // 4, *(len(texts) // (2 if cell in biased else 1) for cell, texts in cells.items()))
            self._enough(size, part)
            found[part] = {cell: texts[: 2 * size if cell in biased else size] for cell, texts in cells.items()}
        return found

    def _enough(self, size: int, part: str) -> None:
        if size < LEAST_OF_A_CLASS:
            raise SaebenchError(
                f"The set {self.of.name} has {size} {part} texts of its smallest class ({self.record['source']}); "
                f"{LEAST_OF_A_CLASS} are needed: give more data with --data-dir, or leave it out."
            )


def read_class_set(name: str, data_dir: Path | None = None) -> ClassSet:
    """The definition of a set: one of the package's, or of the user's in ``tasks/classes`` below ``data_dir``.

    Raises:
        SaebenchError: there is none, or its file is invalid.
    """
    return read_sourced(ClassSet, "tasks/classes", name, own_class_sets(data_dir).get(name))


def own_class_sets(data_dir: Path | None) -> dict[str, Path]:
    """Files of the user's own sets: ``tasks/classes/*.toml`` below a data folder, by name.

    Raises:
        SaebenchError: one has the name of a set of the package.
    """
    return own_definitions("tasks/classes", data_dir)


def class_set_names(data_dir: Path | None = None) -> list[str]:
    """The names of all sets, those of the user's data folder included."""
    return [*definition_names("tasks/classes"), *own_class_sets(data_dir)]


def find_class_sets(wanted: str, data_dir: Path | None = None) -> list[ClassSet]:
    """Sets by name, several separated by commas.

    Raises:
        SaebenchError: there is none of that name (those there are are listed), or none is given.
    """
    known = class_set_names(data_dir)
    names = list(dict.fromkeys(names_in(wanted)))
    for name in names:
        if name not in known:
            raise SaebenchError(f"There is no set of classes {name!r}; there are {', '.join(known)}.")
    if not names:
        raise SaebenchError(f"No set of classes is given; there are {', '.join(known)}.")
    return [read_class_set(name, data_dir) for name in names]


def load_class_texts(of: ClassSet, train_share: float, seed: int, data_dir: Path | None) -> ClassTexts:
    """Read a set's texts, each once; a text that occurs in two cells is left out.

    Args:
        of: the definition.
        train_share: of the texts, where rows do not say which part they belong to.
        seed: of the order of the texts, and of that split.
        data_dir: folder with data sets' files.

    Raises:
        SaebenchError: no source has the data; the message says which were tried.
    """
    read = load_rows(of, data_dir)
    rule = of.rule(read.source)
    assert rule is not None
    try:
        found, dropped = _different(_placed(read.rows, of, rule), of.same)
    except SaebenchError as error:
        raise SaebenchError(f"The set {of.name} cannot be used ({read.described}): {error}.") from error
    parts: dict[str, dict[Cell, list[str]]] = {part: {} for part in PARTS}
    for cell, texts in sorted(_by_cell(found).items()):
        draw = random.Random(f"{seed}/{cell.label}/{cell.second}")
        texts.sort()
        draw.shuffle(texts)
        unplaced = [text for text, part in texts if part not in PARTS]
        first = round(len(unplaced) * train_share)
        for part, more in zip(PARTS, (unplaced[:first], unplaced[first:]), strict=True):
            parts[part][cell] = [text for text, its in texts if its == part] + more
    record = {"source": read.described, "tried_before": list(read.tried), "rows": len(read.rows), "left_out": dropped}
    return ClassTexts(of, parts, record)


def _placed(rows: Iterable[Row], of: ClassSet, rule: ClassRule) -> list[tuple[str, Cell, str]]:
    """``(text, cell, part)`` of the rows whose class and second value the definition names."""
    label_of = {value: name for name, values in of.classes.items() for value in values}
    second_of = {value: name for name, values in of.second.items() for value in values}
    found = []
    for row in rows:
        label = label_of.get(str(lookup(row, rule.label)))
        second = second_of.get(str(lookup(row, rule.second))) if of.second else ""
        if label is None or second is None:
            continue
        text = re.sub(rule.remove, "", filled(rule.text, row)) if rule.remove else filled(rule.text, row)
        if text.strip():
            found.append((text, Cell(label, second), str(row.get(rule.part, ""))))
    return found


def _different(placed: list[tuple[str, Cell, str]], same: str) -> tuple[list[tuple[str, Cell, str]], int]:
    """Each text once, without those that occur in two cells; how many were left out."""
    first: dict[str, tuple[str, Cell, str]] = {}
    clashing: set[str] = set()
    for text, cell, part in placed:
        key = text_key(text, same)
        if first.setdefault(key, (text, cell, part))[1] != cell:
            clashing.add(key)
    kept = [each for key, each in first.items() if key not in clashing]
    return kept, len(placed) - len(kept)


def _by_cell(found: Iterable[tuple[str, Cell, str]]) -> Mapping[Cell, list[tuple[str, str]]]:
    cells: dict[Cell, list[tuple[str, str]]] = {}
    for text, cell, part in found:
        cells.setdefault(cell, []).append((text, part))
    return cells
