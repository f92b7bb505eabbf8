"""Probing tasks on the planted world: does a text's last word have a feature? The answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.files import write_text
from saebench.planted.features import FIRST_WORD, Contexts, PlantedFeatures
from saebench.planted.world import PlantedWorld, sample_rows

TASKS_OF = {"parent": 8, "token": 4, "bigram": 2, "topic": 2}
"""How many features of each kind are asked for: every parent, because absorption damages these."""
ROWS, FIRST_PLACE = 400, 4


def write_tasks(world: PlantedWorld, folder: Path, seed: int = 0, most: int = 160) -> list[str]:
    """Write tasks for the evaluator ``probe_loss`` to a data folder, in the format of a user's own tasks.

    A text is the beginning of a row; label 1 where the feature is active on its last word. Half of the negatives end with
    a word on which the feature is active elsewhere, as far as there are any: the word alone does not give the answer.

    Args:
        world: its features are asked for.
        folder: gets ``tasks/NAME.toml`` and ``planted/NAME.jsonl``; used as the data folder of an evaluation.
        seed: of the texts.
        most: texts of a task, half of each label.

    Returns:
        The names of the tasks.

    Raises:
        SaebenchError: the world is so small that no feature is active often enough.
    """
    rows = sample_rows(world.features, ROWS, seed + 1_000)
    active = world.features.active(Contexts.of(rows))[:, FIRST_PLACE:]
    generator = torch.Generator().manual_seed(seed)
    names = []
    for feature in _asked_for(world.features, active, most // 2):
        places = _places(rows[:, FIRST_PLACE:], active[..., feature], most // 2, generator)
        lines = [
            json.dumps({"text": _text(rows[row], place + FIRST_PLACE), "label": label})
            for label, found in enumerate(places)
            for row, place in found.tolist()
        ]
        name = f"planted_{world.features.kinds[feature]}_{feature}"
        write_text(folder / "planted" / f"{name}.jsonl", "\n".join(lines) + "\n")
        write_text(folder / "tasks" / f"{name}.toml", _definition(name))
        names.append(name)
    if not names:
        raise SaebenchError(f"No feature of the planted world is active on {most // 2} words of {rows.numel()}.")
    return names


def _asked_for(features: PlantedFeatures, active: Tensor, least: int) -> list[int]:
    """The most frequent features of each kind, of those that are active at least ``least`` times."""
    counts = active.sum(dim=(0, 1))
    found: list[int] = []
    for kind, number in TASKS_OF.items():
        able = [feature for feature in features.of_kind(kind) if int(counts[feature]) >= least]
        found += sorted(able, key=lambda feature: -int(counts[feature]))[:number]
    return found


def _places(words: Tensor, active: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``[count, 2]`` row and place of negatives and of positives."""

    def mixed(of: Tensor) -> Tensor:
        found = of.nonzero()
        return found[torch.randperm(found.shape[0], generator=generator)]

    alike = torch.isin(words, words[active].unique()) & ~active
    hard, easy = mixed(alike), mixed(~active & ~alike & (words >= FIRST_WORD))
    most_hard = max(count // 2, count - easy.shape[0])
    negatives = torch.cat([hard[:most_hard], easy])[:count]
    return negatives, mixed(active)[:count]


def _text(row: Tensor, last: int) -> str:
    return " ".join(f"w{word}" for word in row[1 : last + 1].tolist())


def _definition(name: str) -> str:
    return (
        f'title = "The last word has the feature of {name}, or not"\n'
        'sets = ["planted"]\nlicence = "made by saebench"\ncitation = "saebench.planted"\n'
        f'local = ["planted/{name}.jsonl"]\n\n[rows]\ntext = "{{text}}"\nlabel = "label"\npositive = ["1"]\n'
    )
