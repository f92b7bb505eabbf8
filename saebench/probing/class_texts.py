"""Texts of a set of classes, and a problem for each class against the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.probing.problems import Problem, one_against_rest
from saebench.tasks.classes import PARTS, ClassSet, load_class_texts


class Unit(NamedTuple):
    """Texts, and problems by name with a probe each: all classes of a set, or one pair of classes."""

    texts: list[str]
    problems: dict[str, Problem]
    record: dict[str, Any]


def prepared_classes(of: ClassSet, train: int, test: int, seed: int, data_dir: Path | None) -> Unit:
    """The texts of a set of classes, training texts first, and a problem for each class against the others.

    Args:
        of: the set.
        train: training texts of a problem, half of them of the class; ``test``: its test texts.
        test: see ``train``.
        seed: of the split and of the texts of the other classes.
        data_dir: folder with data sets' files.

    Raises:
        SaebenchError: no source has the data, or a class has too few texts.
    """
    loaded = load_class_texts(of, train / (train + test), seed, data_dir)
    parts = loaded.one_against_rest(train, test)
    sizes = {part: {each: len(texts) for each, texts in parts[part].items()} for part in PARTS}
    starts = {"train": 0, "test": sum(sizes["train"].values())}
    problems = {}
    for number, each in enumerate(of.wanted):
        generator = torch.Generator().manual_seed(seed * 1_009 + number)
        problems[each] = Problem(*(one_against_rest(sizes[part], starts[part], each, generator) for part in PARTS))
    texts = [text for part in PARTS for texts in parts[part].values() for text in texts]
    record = {**loaded.record, "texts_of_a_class": {part: min(sizes[part].values()) for part in PARTS}}
    return Unit(texts, problems, record)
