"""Documents of the planted world with two known attributes: the parent whose words are frequent in them, and the topic.

They are the texts of concept erasure (``tpp``, ``scr``) and of probes on pooled latents (``sparse_probing``).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from saebench.files import write_text
from saebench.planted.features import FIRST_WORD, word_frequencies
from saebench.planted.world import PlantedWorld

CLASSES, TASKS = "planted_documents", "documents"
"""The set of classes, and the set of binary tasks of the same texts."""
LENGTH, SHARE, PER_CELL = 12, 0.5, 110
"""Words of a document, share of them that are of its parent, and documents of each parent and topic."""
TOPICS, MOST_TASKS = ("0", "1"), 4


def write_documents(world: PlantedWorld, folder: Path, seed: int = 0) -> None:
    """Write the set of classes ``planted_documents`` and the binary tasks ``documents`` to a data folder.

    A class is a parent: half of a document's words are among the four on which it is active, the others are drawn by
    frequency among the words of no parent. The second attribute is the topic that the document's first word marks.

    Args:
        world: its parents and topics are asked for.
        folder: gets ``tasks/classes/NAME.toml``, ``tasks/NAME.toml`` and ``planted/documents.jsonl``.
        seed: of the texts.
    """
    features = world.features
    parents = features.of_kind("parent")
    generator = torch.Generator().manual_seed(seed)
    other = word_frequencies(world.config)
    other[[word for parent in parents for word in features.patterns[parent]]] = 0.0
    lines = []
    for parent in parents:
        own = torch.tensor(features.patterns[parent])
        for topic in TOPICS:
            for words in _documents(own, other, generator).tolist():
                text = " ".join(f"w{word}" for word in (FIRST_WORD + int(topic), *words))
                lines.append(json.dumps({"text": text, "parent": _name(parent), "topic": topic}))
    write_text(folder / "planted" / "documents.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "tasks" / "classes" / f"{CLASSES}.toml", _classes([_name(each) for each in parents]))
    for parent in parents[:MOST_TASKS]:
        write_text(folder / "tasks" / f"documents_{_name(parent)}.toml", _task(_name(parent)))


def _documents(own: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """``[documents, words]``."""
    size = (PER_CELL, LENGTH)
    mine = own[torch.randint(own.numel(), size, generator=generator)]
    drawn = torch.multinomial(other, PER_CELL * LENGTH, replacement=True, generator=generator).view(size)
    return torch.where(torch.rand(size, generator=generator) < SHARE, mine, drawn)


def _name(parent: int) -> str:
    return f"parent_{parent}"


_HEAD = 'licence = "made by saebench"\ncitation = "saebench.planted"\nlocal = ["planted/documents.jsonl"]\n'


def _classes(names: list[str]) -> str:
    pairs = [list(pair) for pair in zip(names[::2], names[1::2], strict=False)]
    values = "\n".join(f'{name} = ["{name}"]' for name in names)
    topics = "\n".join(f'topic_{topic} = ["{topic}"]' for topic in TOPICS)
    return (
        f'version = 1\ntitle = "The parent whose words are frequent, with two topics"\n{_HEAD}pairs = {json.dumps(pairs)}\n'
        "\n"
        f'[rows]\ntext = "{{text}}"\nlabel = "parent"\nsecond = "topic"\n\n[classes]\n{values}\n\n[second]\n{topics}\n'
    )


def _task(name: str) -> str:
    return (
        f'title = "The words of {name} are frequent, or those of another"\nsets = ["{TASKS}"]\n{_HEAD}\n'
        f'[rows]\ntext = "{{text}}"\nlabel = "parent"\npositive = ["{name}"]\n'
    )
