"""One evaluation, from checkpoints to results: the steps, cheap checks first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.text import Text

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.evaluation.controls import check_controls
from saebench.evaluation.engine import Clock
from saebench.evaluation.hook_run import HookRun
from saebench.evaluation.precision import MakeLooks, PrecisionLooks, targets_of
from saebench.evaluation.preflight import (
    check_against_config,
    check_centring,
    check_nothing_open,
    check_window,
    default_hook,
    model_name,
)
from saebench.evaluation.record import Record
from saebench.evaluation.settings import DEFAULT_CONTEXT, EvaluationSettings
from saebench.evaluators.base import find_evaluators
from saebench.lm import Cut, LanguageModel
from saebench.lm.hooks import Place, parse_place
from saebench.lm.loading import load_tokenizer, pick_device, read_config
from saebench.notices import collect_notices, notice
from saebench.progress import Progress
from saebench.results import Result
from saebench.sae import Autoencoder, CheckpointInfo, SparseAutoencoder, context_of, wrap
from saebench.text.corpus import TokenCorpus, load_corpus
from saebench.text.sources import open_text

T = TypeVar("T")


class EvaluationRun:
    """The steps of an evaluation, cheap checks first.

    Attributes:
        corpus: the text, once it is read.
        rejected: why candidates could not be read; filled only with ``skip_unreadable``, where the others are evaluated.
    """

    def __init__(
        self,
        candidates: Sequence[Any],
        settings: EvaluationSettings,
        targets: Sequence[Path | None],
        resume: bool,
        progress: Progress,
        skip_unreadable: bool = False,
        looking: MakeLooks | None = None,
    ) -> None:
        self.candidates, self.settings, self.targets = candidates, settings, targets
        self.resume, self.progress, self.clock = resume, progress, Clock()
        self.skip_unreadable = skip_unreadable
        self.rejected: list[str] = []
        self.notices: list[str] = []
        self.evaluators = find_evaluators(settings.evaluators)
        check_controls(settings.controls)
        self.looking = looking or self._precision()
        self.corpus: TokenCorpus | None = None
        self.infos: list[CheckpointInfo | None] = [None] * len(candidates)
        self.infos = self._read(self._describe)
        self.model_name = model_name(settings.model, self.infos)
        self.hooks = [self._hooks(info) for info in self.infos]
        if isinstance(settings.corpus, str):
            open_text(settings.corpus, revision=settings.corpus_revision, field=settings.text_field)
        for info, hooks in zip(self.infos, self.hooks, strict=True):
            if info is not None and isinstance(self.model_name, str):
                check_against_config(self.model_name, info, hooks)
        if not isinstance(settings.corpus, TokenCorpus):
            name = self.model_name
            config = read_config(name) if isinstance(name, str) else name.config
            check_window(name if isinstance(name, str) else name.name, config, self._context())

    def _precision(self) -> MakeLooks | None:
        """Looks for the requested relative standard errors; None where all of the text is evaluated."""
        settings = self.settings
        if settings.precision is None:
            return None
        if self.resume:
            raise SaebenchError("An evaluation with --precision cannot be resumed: repeat it without --resume.")
        if settings.suite or settings.only_rows is not None:
            raise SaebenchError("A suite pins the number of tokens: use --precision without --suite.")
        return partial(PrecisionLooks, targets_of(settings.precision, self.evaluators))

    def run(self) -> list[Result]:
        """Load, evaluate, write. Results are written as evaluators finish."""
        with collect_notices() as self.notices:
            return self._run()

    def _run(self) -> list[Result]:
        results: dict[int, Result] = {}
        for hook_run, records in self.hook_runs():
            hook_run.run(list(records.values()), self.looking)
            results |= {index: record.result() for index, record in records.items()}
        return [results[index] for index in range(len(self.candidates))]

    def hook_runs(self) -> Iterator[tuple[HookRun, dict[int, Record]]]:
        """For each hook what runs its autoencoders, and their records by number."""
        if isinstance(self.model_name, str):
            pick_device(self.settings.device)  # one that is not here is no fault of the autoencoders
        with self.clock.stage("loading autoencoders"):  # first: a damaged one is found before the model is loaded
            loaded = self._read(self._load_checkpoint)
            self.hooks = [self._hooks(info) for info in self.infos]
        with self.clock.stage("tokenising"):  # with the tokenizer alone: a text is checked before the model is loaded
            corpus = self.corpus = self._corpus()
        model = self._load_model()
        places = [(*hooks, context_of(sae)) for sae, hooks in zip(loaded, self.hooks, strict=True)]
        cuts = {place: model.cut(*place) for place in dict.fromkeys(places)}
        saes = [self._fitted(sae, cuts[place]) for sae, place in zip(loaded, places, strict=True)]
        for place, cut in cuts.items():
            indices = [index for index, each in enumerate(places) if each == place]
            records = {index: self._record(index, saes[index], cut, corpus) for index in indices}
            yield HookRun(self.settings, self.evaluators, cut, corpus, self.progress), records

    def text(self) -> TokenCorpus:
        """The text, by the tokenizer and the checkpoints' metadata alone; no weights are loaded."""
        return self._corpus()

    def open(self) -> tuple[list[Autoencoder], Cut]:
        """The candidates, and their language model cut at their common hook; nothing is evaluated.

        Raises:
            SaebenchError: their hooks differ.
        """
        if len(set(self.hooks)) > 1:
            named = ", ".join(sorted({str(reads) for reads, _ in self.hooks}))
            raise SaebenchError(f"The autoencoders are of different hooks ({named}): they must be on one hook.")
        loaded = [self._load_checkpoint(candidate) for candidate in self.candidates]
        contexts = [context_of(each) for each in loaded]
        if len(loaded) > 1 and any(contexts):
            raise SaebenchError("An autoencoder that looks at earlier tokens cannot share activations with others.")
        cut = self._load_model().cut(*self.hooks[0], contexts[0])
        return [self._fitted(each, cut) for each in loaded], cut

    def prepare(self) -> tuple[list[Autoencoder], Cut, TokenCorpus]:
        """As ``open``, with the text."""
        saes, cut = self.open()
        return saes, cut, self._corpus()

    def _read(self, read: Callable[[Any], T]) -> list[T]:
        """What ``read`` returns for each candidate; with ``skip_unreadable``, candidates on which it fails are left out.

        Raises:
            SaebenchError: a candidate cannot be read, or, where they are left out, none can.
        """
        found: dict[int, T] = {}
        for index, candidate in enumerate(self.candidates):
            try:
                found[index] = read(candidate)
            except SaebenchError as error:
                if not self.skip_unreadable:
                    raise
                self.rejected.append(str(error))
                if self.progress.shown:
                    self.progress.console.print(Text(f"Left out: {error}", style="yellow"))
        if not found:
            raise SaebenchError(self.rejected[0])
        self.candidates = [self.candidates[index] for index in found]
        self.targets = [self.targets[index] for index in found]
        self.infos = [self.infos[index] for index in found]
        return list(found.values())

    def _describe(self, candidate: Any) -> CheckpointInfo | None:
        if not isinstance(candidate, str | Path):
            return candidate.info if isinstance(candidate, SparseAutoencoder) else None
        info = checkpoints.inspect(candidate, **self.settings.given)
        check_nothing_open(info, self.settings.model, self.settings.hook)
        return info

    def _hooks(self, info: CheckpointInfo | None) -> tuple[Place, Place]:
        reads = self.settings.hook or (None if info is None else info.hook_in or default_hook(self.model_name))
        if reads is None:
            raise SaebenchError("The checkpoint does not say where it reads: give the hook with --hook.")
        own_out = info.hook_out if info is not None and self.settings.hook is None else None
        writes = self.settings.hook_out or own_out or reads
        return parse_place(reads), parse_place(writes)

    def _load_model(self) -> LanguageModel:
        if isinstance(self.model_name, LanguageModel):
            return self.model_name
        with self.clock.stage("loading the language model"), self.progress.step(f"Loading {self.model_name}"):
            return LanguageModel.load(self.model_name, self.settings.dtype, self.settings.device)

    def _load_checkpoint(self, candidate: Any) -> Any:
        if not isinstance(candidate, str | Path):
            return candidate
        given = self.model_name
        device = str(given.device) if isinstance(given, LanguageModel) else pick_device(self.settings.device)
        return checkpoints.load(candidate, device, **self.settings.given)

    def _fitted(self, candidate: Any, cut: Cut) -> Autoencoder:
        """The candidate as an autoencoder whose widths fit the hooks."""
        sae = self._with_assumed_hook(wrap(candidate, cut.d_in), cut)
        check_centring(cut.model.name, cut.model.config, sae.info)
        if (sae.d_in, sae.d_out) != (cut.d_in, cut.d_out):
            raise SaebenchError(
                f"{sae.info.origin} reads {sae.d_in} and writes {sae.d_out} values, but {cut.hook_in} has {cut.d_in}"
                + (f" and {cut.hook_out} {cut.d_out}." if cut.hook_out != cut.hook_in else ".")
            )
        return sae

    def _with_assumed_hook(self, sae: Autoencoder, cut: Cut) -> Autoencoder:
        """A checkpoint that does not say where it reads, evaluated at its model's own hook: this is printed and recorded."""
        if self.settings.hook or sae.info.hook_in or not isinstance(sae, SparseAutoencoder):
            return sae
        assumed = {"hook": f"{cut.hook_in}, the default of {cut.model.name} (--hook names another)"}
        notice(f"{Path(sae.info.origin).name}: hook: {assumed['hook']}")
        return replace(sae, info=replace(sae.info, assumed=sae.info.assumed | assumed))

    def _info(self) -> CheckpointInfo | None:
        """The first checkpoint's metadata, which gives what the settings leave open."""
        return next((each for each in self.infos if each is not None), None)

    def _context(self) -> int:
        info = self._info()
        return self.settings.context or (info.context if info is not None else None) or DEFAULT_CONTEXT

    def _corpus(self) -> TokenCorpus:
        settings, info, model = self.settings, self._info(), self.model_name
        if isinstance(settings.corpus, TokenCorpus):
            return settings.corpus
        bos = settings.bos
        if bos is None and info is not None and info.prepend_bos is False:
            bos = "none"
        return load_corpus(
            settings.corpus,
            model.tokenizer if isinstance(model, LanguageModel) else load_tokenizer(model),
            context=self._context(),
            tokens=settings.tokens or None,
            bos=bos,
            exclude=settings.exclude,
            revision=settings.corpus_revision,
            field=settings.text_field,
        )

    def _record(self, index: int, sae: Autoencoder, cut: Cut, corpus: TokenCorpus) -> Record:
        seconds = self.clock.seconds
        record = Record(sae, cut, corpus, self.settings, self.evaluators, self.targets[index], seconds, self.notices)
        record.open(self.resume)
        return record


def open_model(sae: Any, progress: Progress, **settings: Any) -> tuple[Autoencoder, Cut]:
    """As ``prepare``, without a text."""
    saes, cut = EvaluationRun([sae], EvaluationSettings(evaluators=(), **settings), [None], False, progress).open()
    return saes[0], cut


def prepare(sae: Any, progress: Progress, **settings: Any) -> tuple[Autoencoder, Cut, TokenCorpus]:
    """One autoencoder with its language model, cut at its hooks, and its text, all checked as ``evaluate`` does.

    Args:
        sae: as for ``evaluate``.
        progress: where to show progress.
        **settings: see ``EvaluationSettings``.

    Raises:
        SaebenchError: an argument is invalid.
    """
    saes, cut, corpus = prepare_together([sae], progress, **settings)
    return saes[0], cut, corpus


def prepare_together(saes: Sequence[Any], progress: Progress, **settings: Any) -> tuple[list[Autoencoder], Cut, TokenCorpus]:
    """Several autoencoders on one hook, as ``prepare`` does with one.

    Raises:
        SaebenchError: an argument is invalid, or their hooks differ.
    """
    places: list[Path | None] = [None] * len(saes)
    return EvaluationRun(saes, EvaluationSettings(evaluators=(), **settings), places, False, progress).prepare()
