"""An evaluation on many workers, from checkpoints to stored results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from saebench.distributed.driver import Controlled, Driver
from saebench.distributed.memory import need, worker_memory
from saebench.distributed.store import Store, open_store
from saebench.distributed.units import packs, shards
from saebench.distributed.worker import EvaluationJob
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.controls import Control
from saebench.evaluation.hook_run import rows_per_batch
from saebench.evaluation.record import with_control
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.evaluators.base import StreamingEvaluator
from saebench.lm.loading import read_config
from saebench.progress import Progress
from saebench.results import Result
from saebench.text.corpus import TokenCorpus
from saebench.version import __version__


class DistributedRun:
    """Plans an evaluation on this machine, without weights, and runs it on workers.

    Args:
        candidates: checkpoints.
        settings: the model by name.
        names: of the results' files, without suffix.
        out: a folder or fsspec address.
        resume: go on from the finished shards and results there.
        progress: where progress is shown.

    Attributes:
        rejected: why checkpoints could not be evaluated.

    Raises:
        SaebenchError: an argument is invalid, or no checkpoint can be read.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        settings: EvaluationSettings,
        names: Sequence[str],
        out: str,
        resume: bool,
        progress: Progress,
    ) -> None:
        if settings.precision is not None:
            raise SaebenchError("--precision stops a single pass: use it without --on.")
        plan = EvaluationRun(candidates, settings, [Path(each) for each in names], False, progress, skip_unreadable=True)
        if not isinstance(plan.model_name, str):
            raise SaebenchError("Workers load the language model themselves: give its name or folder.")
        self.plan, self.model, self.resume, self.progress = plan, plan.model_name, resume, progress
        self.candidates = tuple(str(each) for each in plan.candidates)
        self.names = tuple(str(each) for each in plan.targets)
        self.rejected = list(plan.rejected)
        self._check_evaluators()
        self.store = open_store(out)

    def _check_evaluators(self) -> None:
        for name, each in self.plan.evaluators.items():
            if issubclass(each, StreamingEvaluator) and not each.summed:
                raise SaebenchError(f"The evaluator {name} does not say where its sums are, which shards need: use no --on.")

    def run(self, workers: Workers) -> list[Result]:
        """Evaluate; results are written as they are finished, in the store. Returns them in the order of the checkpoints.

        Raises:
            SaebenchError: a worker's memory is too small, or the pool cannot start.
        """
        with self.progress.step("Reading the text"):
            corpus, settings = self._decided()
        size = rows_per_batch(settings, corpus)
        together = self._together(workers, settings, size * corpus.context)
        parts = shards(corpus.tokens.shape[0], corpus.context, size)
        key = self._key(settings, corpus, parts)
        found = self._earlier(key) if self.resume else {}
        by_hook: dict[str, list[int]] = {}
        for number, hooks in enumerate(self.plan.hooks):
            if number not in found:
                by_hook.setdefault(repr(hooks), []).append(number)
        groups = [each for numbers in by_hook.values() for each in packs(numbers, together)]

        def finished(number: int, text: str, controls: Sequence[Controlled]) -> None:
            found[number] = self._with_controls(Result.model_validate_json(text), controls)
            content = (found[number].model_dump_json(indent=1) + "\n").encode()
            self.store.write(f"{self.names[number]}.json", content)
            self.store.write(self._mark(key, number), hashlib.sha256(content).hexdigest().encode())

        shard_store = _Below(self.store, f".shards/{key}", fresh=not self.resume)
        driver = Driver(groups, parts, self._one_by_one(settings), self.candidates, shard_store, finished, self.progress)
        if groups:
            with closing(workers.start(EvaluationJob(self.candidates, settings, workers.threads))) as pool:
                driver.run(pool)
        self.rejected += [driver.rejected[number] for number in sorted(driver.rejected)]
        if not driver.rejected:
            shard_store.clear()
        return [found[number] for number in sorted(found)]

    def _with_controls(self, result: Result, controls: Sequence[Controlled]) -> Result:
        for each in reversed(controls):
            control = Control.from_text(each.control)
            found = each.words or Result.model_validate_json(each.result)
            made = control.record(self.plan.settings.seed)
            result = with_control(result, control.name, found, made, self.plan.evaluators)
        return result

    def _decided(self) -> tuple[TokenCorpus, EvaluationSettings]:
        """The text, and the settings with everything that a single process decides from all checkpoints."""
        corpus = self.plan.text()
        return corpus, replace(self.plan.settings, model=self.model, context=corpus.context, bos=corpus.bos)

    def _together(self, workers: Workers, settings: EvaluationSettings, tokens: int) -> int:
        widths = [(info.d_in or 0, info.n_latents or 0) for info in self.plan.infos if info is not None]
        available = worker_memory(workers, settings.device)
        return need(read_config(self.model), settings.dtype, tokens, widths, available).together()

    def _one_by_one(self, settings: EvaluationSettings) -> bool:
        """Whether the end of an evaluation is much work for each autoencoder."""
        return bool(settings.controls) or not all(issubclass(e, StreamingEvaluator) for e in self.plan.evaluators.values())

    def _key(self, settings: EvaluationSettings, corpus: TokenCorpus, parts: Sequence[tuple[int, int]]) -> str:
        """Identifies the evaluation: shards of another are not used."""
        chosen = asdict(replace(settings, corpus="", only_rows=None)) | {"corpus": corpus.sha256}
        content = {
            "version": __version__,
            "settings": chosen,
            "shards": parts,
            "checkpoints": list(map(_state_of, self.candidates)),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _mark(self, key: str, number: int) -> str:
        return f".shards/{key}/{hashlib.sha256(self.names[number].encode()).hexdigest()[:16]}.done"

    def _earlier(self, key: str) -> dict[int, Result]:
        """Results that an earlier run of the same evaluation has finished."""
        found = {}
        for number, name in enumerate(self.names):
            content, mark = self.store.read(f"{name}.json"), self.store.read(self._mark(key, number))
            if content is not None and mark == hashlib.sha256(content).hexdigest().encode():
                found[number] = Result.model_validate_json(content)
        return found


def _state_of(candidate: str) -> list[object]:
    """A checkpoint's name with the sizes and times of its files, where it is local."""
    path = Path(candidate)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else []
    return [candidate, *((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files)]


class _Below:
    """A part of a store. With ``fresh``, what was there before is as if it were not."""

    def __init__(self, store: Store, folder: str, fresh: bool) -> None:
        self._store, self._folder, self._fresh = store, folder, fresh
        self._written: set[str] = set()

    def read(self, name: str) -> bytes | None:
        return None if self._fresh and name not in self._written else self._store.read(f"{self._folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        self._written.add(name)
        self._store.write(f"{self._folder}/{name}", content)

    def remove(self, name: str) -> None:
        self._store.remove(f"{self._folder}/{name}")

    def clear(self) -> None:
        """Remove what was written here."""
        for name in self._written:
            self.remove(name)
