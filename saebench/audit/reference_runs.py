"""The autoencoders of a sweep's folder: which of the recipe's are there, and their evaluation, which can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saebench import checkpoints
from saebench.checkpoints.native import CONFIG
from saebench.distributed.run import DistributedRun
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.parsing import parse_json
from saebench.progress import Progress
from saebench.training.config import read_sweep
from saebench.training.manifest import MANIFEST
from saebench.training.saving import COPY

TOGETHER = 4
"""Autoencoders that are evaluated in one pass over the text; an interruption loses at most their pass."""


@dataclass(frozen=True)
class Cells:
    """What a sweep's folder holds.

    Attributes:
        recipe: of the sweep, by name; empty where no manifest says it.
        finished: folders of finished runs, by name; ``copies``: of copies after fewer tokens, by name.
        unfinished: runs that have not reached their end; they are not evaluated.
        missing: members of the recipe of which there is no checkpoint.
    """

    recipe: str
    finished: Mapping[str, Path]
    copies: Mapping[str, Path]
    unfinished: tuple[str, ...]
    missing: tuple[str, ...]

    @staticmethod
    def of(runs: Path) -> Cells:
        """The cells in a folder that has one below it for each run; empty where there is none.

        Raises:
            SaebenchError: a checkpoint's record or the manifest cannot be read.
        """
        finished: dict[str, Path] = {}
        copies: dict[str, Path] = {}
        unfinished = []
        for config in sorted(runs.glob(f"*/{CONFIG}")):
            folder = config.parent
            training = checkpoints.inspect(folder).training
            if training.get("complete") is False:
                unfinished.append(folder.name)
                continue
            finished[folder.name] = folder
            for copy in sorted(folder.glob(f"{COPY}*/{CONFIG}")):
                if copy.parent.name != f"{COPY}{training.get('tokens')}":  # the run's own end
                    copies[f"{folder.name}-{copy.parent.name}"] = copy.parent
        recipe, names = _recipe(runs / MANIFEST)
        missing = tuple(name for name in names if name not in finished and name not in unfinished)
        return Cells(recipe, finished, copies, tuple(unfinished), missing)

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "recipe": self.recipe, "evaluated": list(self.finished), "copies": list(self.copies),
            "unfinished": list(self.unfinished), "missing": list(self.missing),
        }  # fmt: skip

    def sentence(self) -> str:
        """How much of the sweep is there."""
        total = len(self.finished) + len(self.unfinished) + len(self.missing)
        words = f"{len(self.finished)} of the {total} autoencoders of the recipe {self.recipe}" if self.recipe else (
            f"{len(self.finished)} autoencoders"
        )  # fmt: skip
        words += f" and {len(self.copies)} copies of them after fewer tokens" if self.copies else ""
        absent = [*self.missing, *(f"{name} (unfinished)" for name in self.unfinished)]
        return f"{words}. Not there: {', '.join(absent)}." if absent else f"{words}."


def _recipe(manifest: Path) -> tuple[str, list[str]]:
    """The recipe's name and its members' names; none where there is no manifest or the recipe is a user's own file."""
    if not manifest.is_file():
        return "", []
    try:
        name = str(parse_json(manifest.read_text(encoding="utf-8"))["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaebenchError(f"{manifest} is not a manifest of a sweep: delete it, or give another folder.") from error
    try:
        return name, read_sweep(name)[1]
    except SaebenchError:
        return name, []


def evaluate_cells(
    cells: Cells, settings: EvaluationSettings, folder: Path, progress: Progress, workers: Workers | None = None
) -> list[Path]:
    """Evaluate all finished runs with their controls, and the copies without; whatever is in ``folder`` is not repeated.

    Args:
        cells: what there is; ``settings``: of the evaluation; ``folder``: of the results.
        progress: where progress is shown.
        workers: where, and how many; None for this process. They repeat what this process has evaluated.

    Returns:
        The result files.

    Raises:
        SaebenchError: an autoencoder cannot be evaluated, or a result was made with other settings.
    """
    found = []
    for places, own in ((cells.finished, settings), (cells.copies, replace(settings, controls=()))):
        names = list(places)
        if workers is not None and names:
            run = DistributedRun([str(places[name]) for name in names], own, names, str(folder), True, progress)
            run.run(workers)
            if run.rejected:
                raise SaebenchError(f"Of the other autoencoders there are results in {folder}. {' '.join(run.rejected)}")
            found += [folder / f"{name}.json" for name in names]
            continue
        for start in range(0, len(names), TOGETHER):
            some = names[start : start + TOGETHER]
            targets: list[Path | None] = [folder / f"{name}.json" for name in some]
            EvaluationRun([places[name] for name in some], own, targets, True, progress).run()
            found += [folder / f"{name}.json" for name in some]
    return found
