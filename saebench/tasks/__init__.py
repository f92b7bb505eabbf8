"""Probing tasks: from a definition in ``tasks/`` to labelled examples, cleaned and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.tasks.definition import Task, find_tasks, read_task, task_names
from saebench.tasks.rules import Example, make_examples
from saebench.tasks.sources import availability, load_rows
from saebench.tasks.splits import clean, split

__all__ = ["Example", "Task", "TaskData", "availability", "find_tasks", "load_task", "read_task", "task_names"]


@dataclass(frozen=True)
class TaskData:
    """A task's examples, ready to probe.

    Attributes:
        task: its definition.
        parts: ``train``, ``validation`` and ``test``: balanced, label 0 before label 1, no text or source row in two.
        record: where the rows came from, and how many were excluded and why; JSON data.
        sha256: of the texts, labels, groups and their split.
    """

    task: Task
    parts: dict[str, list[Example]]
    record: dict[str, Any]
    sha256: str


def load_task(task: Task, shares: Mapping[str, float], most: int, seed: int = 0, data_dir: Path | None = None) -> TaskData:
    """Read, clean and split a task's data.

    Args:
        task: its definition.
        shares: of ``train``, ``validation`` and ``test``, which add up to 1.
        most: maximum number of examples.
        seed: of the split.
        data_dir: folder with data sets' files, at the relative paths that the definitions name.

    Raises:
        SaebenchError: no source has the data, or there are too few examples; the message says what was tried.
    """
    read = load_rows(task, data_dir)
    try:
        examples, unused = make_examples(read.rows, task.rule(read.source))
        cleaned = clean(examples, task.same)
        parts = split(cleaned.examples, shares, most, task.same, seed)
    except SaebenchError as error:
        raise SaebenchError(f"The task {task.name} cannot be used ({read.described}): {error}.") from error
    record = {
        "source": read.described,
        "tried_before": list(read.tried),
        "rows": len(read.rows),
        "rows_unused": unused,
        "examples": len(examples),
        "exact_duplicates": cleaned.exact,
        "near_duplicates": cleaned.near,
        "conflicting_labels": cleaned.conflicting,
        "empty": cleaned.empty,
        "used": {name: len(part) for name, part in parts.items()},
    }
    content = [[name, [[each.text, each.label, each.group] for each in part]] for name, part in parts.items()]
    return TaskData(task, parts, record, hashlib.sha256(json.dumps(content).encode()).hexdigest())
