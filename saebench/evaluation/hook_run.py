"""The evaluation of all autoencoders of one hook: one pass for what streams, then the other evaluators, then controls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from saebench.evaluation.controls import L0_TOKENS, OF_EACH, SAMPLE_TOKENS, Control, Sample, measured_l0, reinitialised
from saebench.evaluation.engine import Clock, EvaluatedAutoencoder, run_ablated, stream
from saebench.evaluation.precision import Looks, MakeLooks
from saebench.evaluation.record import Record, in_words
from saebench.evaluation.settings import TOKENS_PER_BATCH, EvaluationSettings
from saebench.evaluators.base import Evaluator, Setup, StreamingEvaluator
from saebench.evaluators.shared import Shared, make_shared
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.results import Result
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus

Restore = Callable[[Shared, Sequence[EvaluatedAutoencoder]], Clock]
"""Fills in sums that were made before, and says how long that took."""


def rows_per_batch(settings: EvaluationSettings, corpus: TokenCorpus) -> int:
    """Rows that are run together."""
    return settings.batch or max(1, TOKENS_PER_BATCH // corpus.context)


def _give(users: Sequence[Record], name: str, made: dict[str, int], result: Result) -> None:
    for user in users:
        user.add_control(name, result, made)


class HookRun:
    """Evaluates autoencoders of one hook together.

    Args:
        settings: of the evaluation; ``evaluators``: by name.
        cut: the language model at the hook; ``corpus``: the text.
        progress: where progress is shown.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        evaluators: Mapping[str, type[Evaluator]],
        cut: Cut,
        corpus: TokenCorpus,
        progress: Progress,
    ) -> None:
        self.settings, self.evaluators, self.corpus, self.progress = settings, dict(evaluators), corpus, progress
        self.cut = cut
        self.plain = cut if cut.context is None else cut.model.cut(cut.hook_in, cut.hook_out)
        """Where controls read: without the earlier tokens that some autoencoders see."""

    def run(self, records: Sequence[Record], looking: MakeLooks | None = None, restore: Restore | None = None) -> None:
        """Run whatever the records lack; they are written as evaluators finish.

        Args:
            records: of the autoencoders.
            looking: makes looks that can end the evaluation early; all evaluators then get the same rows.
            restore: fills in the sums of streaming evaluators and the shared figures, instead of a pass over the text.

        Raises:
            SaebenchError: an evaluator cannot run on one of them; raised before heavy work.
        """
        shared = self._shared(self.cut)
        of_controls = shared if self.plain is self.cut else self._shared(self.plain)
        for record in records:
            self._check(record, self.cut, shared)
        if looking is not None or restore is not None:
            if looking is not None:
                self._until_stopped(records, looking, shared)
            if restore is not None:
                self._restored(records, restore, shared)
            shared = self._shared(self.cut)
            of_controls = shared if self.plain is self.cut else self._shared(self.plain)
        controls = self._controls(records)
        for record in controls:
            self._check(record, self.plain, of_controls)
        if self.plain is self.cut:
            self._stream([*records, *controls], self.cut, shared)
        else:
            self._stream(records, self.cut, shared)
            self._stream(controls, self.plain, of_controls)
        for record in records:
            self._run_standalone(record, self.cut, shared)
        for record in controls:
            self._run_standalone(record, self.plain, of_controls)
        if "reinitialised" in self.settings.controls:
            self._reinitialised(records)

    @property
    def _rows_per_batch(self) -> int:
        return rows_per_batch(self.settings, self.corpus)

    def partial(self, records: Sequence[Record]) -> tuple[Shared, list[EvaluatedAutoencoder], Clock]:
        """The sums of the streaming evaluators over the rows of ``settings.only_rows``; nothing is computed from them."""
        shared = self._shared(self.cut)
        for record in records:
            self._check(record, self.cut, shared)
        evaluated = [one for _, one in self._streaming(records, self.cut, shared)]
        rows = torch.arange(self.corpus.tokens.shape[0]) if self.settings.only_rows is None else self.settings.only_rows
        some = self.corpus.only(rows)
        clock = stream(evaluated, self.cut, some, shared, self._rows_per_batch, self.progress, ablate=False)
        return shared, evaluated, clock

    def controls_of(self, records: Sequence[Record]) -> list[list[Control]]:
        """For each record the controls that it shares with all of the same width and L0."""
        return self._shared_by(records, self._sample()) if self._shared_controls else [[] for _ in records]

    def run_control(self, control: Control, user: Record) -> Result:
        """Evaluate a control by itself; ``user`` is a record that it belongs to."""
        record = self._record_of(control.make(self._sample(), self.settings.seed), control.name, [user])
        shared = self._shared(self.plain)
        self._check(record, self.plain, shared)
        self._stream([record], self.plain, shared)
        self._run_standalone(record, self.plain, shared)
        return record.result()

    @property
    def _shared_controls(self) -> list[str]:
        return [name for name in self.settings.controls if name not in OF_EACH]

    def _sample(self) -> Sample:
        return Sample.of(self.cut, self.corpus, SAMPLE_TOKENS if "pca" in self._shared_controls else L0_TOKENS)

    def _shared_by(self, records: Sequence[Record], sample: Sample) -> list[list[Control]]:
        l0 = [measured_l0(each.sae, sample) for each in records]
        return [
            [Control.of(name, each.sae, own, sample) for name in self._shared_controls]
            for each, own in zip(records, l0, strict=True)
        ]

    def _restored(self, records: Sequence[Record], restore: Restore, shared: Shared) -> None:
        """Finish the streaming evaluators from the sums of earlier passes over parts of the text."""
        streaming = self._streaming(records, self.cut, shared)
        clock = restore(shared, [one for _, one in streaming])
        if any(one.splicing() for _, one in streaming):
            run_ablated(self.cut, self.corpus, shared, self._rows_per_batch, clock)
        self._finish(streaming, clock)

    def _until_stopped(self, records: Sequence[Record], looking: MakeLooks, shared: Shared) -> None:
        """Run the evaluators of the metrics that are looked at; all others get the same rows afterwards."""
        looks = looking(self.corpus.tokens.shape[0], self.corpus.context)
        self._stream(records, self.cut, shared, {path.partition(".")[0] for path in looks.paths}, looks)
        self.corpus = self.corpus.first(looks.rows)
        for index, record in enumerate(records):
            record.stopped(self.corpus, looks.reached(index))
            record.write()

    def _controls(self, records: Sequence[Record]) -> list[Record]:
        """The controls that are autoencoders of their own, each once, with the evaluators that a record still lacks.

        A record that is resumed with all of a control gives it to the others that have the same one.
        """
        names = self._shared_controls
        users: dict[Control, list[Record]] = {}
        lacking = {name: self._lacking(records, name) for name in names}
        if not any(lacking.values()):
            return []
        sample = self._sample()
        for name, controls in zip(names, zip(*self._shared_by(records, sample), strict=True), strict=True):
            control = {id(each): its for each, its in zip(records, controls, strict=True)}
            complete = {control[id(each)]: each for each in records if each not in lacking[name]}
            for record in lacking[name]:
                if control[id(record)] in complete:
                    record.share_control(name, complete[control[id(record)]])
                else:
                    users.setdefault(control[id(record)], []).append(record)
        seed = self.settings.seed
        return [
            self._record_of(control.make(sample, seed), control.name, its, control.record(seed))
            for control, its in users.items()
        ]

    def _lacking(self, records: Sequence[Record], name: str) -> list[Record]:
        return [each for each in records if set(self.evaluators) - set(each.controls.get(name, {}))]

    def _record_of(self, sae: Autoencoder, name: str, users: Sequence[Record], made: dict[str, int] | None = None) -> Record:
        """A control's own record. Where it is said how the control was ``made``, its users get each result when it is there.

        Thus an interrupted run keeps what was computed of a control.
        """
        evaluators = {
            each: evaluator
            for each, evaluator in self.evaluators.items()
            if any(each not in user.controls.get(name, {}) for user in users)
        }
        settings = replace(self.settings, controls=())
        record = Record(sae, self.plain, self.corpus, settings, evaluators, None, {}, users[0].notices)
        if made is not None:
            record.on_write = partial(_give, users, name, made)
        return record

    def _setup(self, sae: Autoencoder, cut: Cut, shared: Shared, name: str) -> Setup:
        settings = self.settings
        folder = Path(settings.data_dir).expanduser() if settings.data_dir else None
        options = dict(settings.options.get(name, {}))
        return Setup(sae, cut, self.corpus, shared, settings.seed, options, folder, settings.only_rows, self.progress)

    def _shared(self, cut: Cut) -> Shared:
        return make_shared(self.corpus, len(cut.model.tokenizer), cut.parts)

    def _check(self, record: Record, cut: Cut, shared: Shared) -> None:
        for name, evaluator in record.evaluators.items():
            setup = self._setup(record.sae, cut, shared, name)
            evaluator.check(setup)
            record.uses(evaluator.definitions(setup))

    def _stream(
        self,
        records: Sequence[Record],
        cut: Cut,
        shared: Shared,
        names: Collection[str] | None = None,
        looks: Looks | None = None,
    ) -> None:
        """One pass for the records' streaming evaluators, or for those of ``names``.

        ``shared`` gets the figures of the language model alone; ``looks`` can end the pass.
        """
        streaming = self._streaming(records, cut, shared, names)
        if not streaming:
            return
        some = self.corpus if self.settings.only_rows is None else self.corpus.only(self.settings.only_rows)
        clock = stream([one for _, one in streaming], cut, some, shared, self._rows_per_batch, self.progress, looks)
        self._finish(streaming, clock, write=looks is None)  # else the rows are recorded first

    def _finish(self, streaming: Sequence[tuple[Record, EvaluatedAutoencoder]], clock: Clock, write: bool = True) -> None:
        """Compute the results after a pass, or note failures."""
        for record, one in streaming:
            record.stages |= clock.seconds
            for name, watcher in one.evaluators.items():
                record.finish(name, watcher.compute, sum(clock.seconds.values()))
            record.failures |= {name: in_words(error) for name, error in one.failures.items()}
            if write:
                record.write()

    def _streaming(
        self, records: Sequence[Record], cut: Cut, shared: Shared, names: Collection[str] | None = None
    ) -> list[tuple[Record, EvaluatedAutoencoder]]:
        """The records that lack streaming evaluators (of ``names``), each with new ones."""
        streaming: list[tuple[Record, EvaluatedAutoencoder]] = []
        for record in records:
            watching = {
                name: evaluator(self._setup(record.sae, cut, shared, name))
                for name, evaluator in record.evaluators.items()
                if issubclass(evaluator, StreamingEvaluator)
                and name not in record.finished.keys() | record.failures.keys()
                and (names is None or name in names)
            }
            if watching:
                setup = self._setup(record.sae, cut, shared, next(iter(watching)))
                streaming.append((record, EvaluatedAutoencoder(record.sae, setup, watching)))
        return streaming

    def _run_standalone(self, record: Record, cut: Cut, shared: Shared) -> None:
        for name, evaluator in record.evaluators.items():
            if issubclass(evaluator, StreamingEvaluator) or name in record.finished:
                continue
            timer = Clock()
            with timer.stage(name):
                record.finish(name, evaluator(self._setup(record.sae, cut, shared, name)).compute, None)
            record.stages |= timer.seconds
            record.write()

    def _reinitialised(self, records: Sequence[Record]) -> None:
        """The autoencoders themselves, on the language model with re-initialised weight matrices."""
        name, cut, settings = "reinitialised", self.cut, replace(self.settings, controls=())
        lacking = self._lacking(records, name)
        if not lacking:
            return
        with reinitialised(cut.model, settings.seed):
            own = [self._record_of(each.sae, name, [each], {"seed": settings.seed}) for each in lacking]
            HookRun(settings, self.evaluators, cut, self.corpus, self.progress).run(own)
