"""What ``import saebench`` offers: evaluate autoencoders, load checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from saebench import checkpoints
from saebench.controls import check_controls, run_control
from saebench.corpus import BosPolicy, TokenCorpus, load_corpus
from saebench.engine import Clock, Judged, stream
from saebench.errors import SaebenchError
from saebench.evaluators.base import DEFAULT_EVALUATORS, Setup, StreamingEvaluator, find_evaluators
from saebench.evaluators.shared import make_shared
from saebench.hooks import Hook, parse_hook
from saebench.lm import Cut, LanguageModel
from saebench.lm_loading import pick_device
from saebench.preflight import check_against_config, model_name
from saebench.progress import Progress
from saebench.record import Record, in_words
from saebench.results import check_writable
from saebench.sae import Autoencoder, CheckpointInfo, SparseAutoencoder, wrap
from saebench.scorecard import Scorecard
from saebench.text_sources import PYTHON_DOCS, open_text

DEFAULT_TOKENS = 32_768
DEFAULT_CONTEXT = 128
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate. What is None is read from the checkpoint, or has the default named.

    Attributes:
        model: hub name, folder, GGUF file or ``smollm2``; or a ``LanguageModel`` that is loaded already.
        hook: where the autoencoder reads; ``hook_out`` where it writes (transcoders).
        corpus: a text for ``load_corpus``, or a ``TokenCorpus``.
        corpus_revision: pins a data set on the hub.
        tokens: how many tokens of the text; all with 0.
        context: length of a row (the checkpoint's, else 128).
        batch: rows run together (as many as hold 1,024 tokens); numbers do not depend on it beyond rounding.
        dtype: of the language model: ``float32``, ``bfloat16`` or ``auto``.
        device: such as ``cuda``; an accelerator where there is one.
        evaluators: names of those to run.
        seed: of everything random.
        bos: ``row``, ``text`` or ``none`` (the checkpoint's, else by the tokenizer).
        exclude: whether special tokens and first positions are left out.
        options: settings of single evaluators, by evaluator.
        controls: names from ``saebench.controls.CONTROLS``; the same evaluators are run on each, for comparison.
        data_dir: a folder with the files of probing data sets; where it lies does not count as a setting of the result.
    """

    model: str | LanguageModel | None = None
    hook: str | None = None
    hook_out: str | None = None
    corpus: str | TokenCorpus = PYTHON_DOCS
    corpus_revision: str | None = None
    tokens: int = DEFAULT_TOKENS
    context: int | None = None
    batch: int | None = None
    dtype: str = "auto"
    device: str | None = None
    evaluators: Sequence[str] = DEFAULT_EVALUATORS
    seed: int = 0
    bos: BosPolicy | None = None
    exclude: bool = True
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls: Sequence[str] = ()
    data_dir: str | Path | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("tokens", self.tokens, 0), ("batch", self.batch, 1), ("context", self.context, 2)):
            if value is not None and value < least:
                raise SaebenchError(f"{name} is {value}; it must be at least {least}.")


load = checkpoints.load


@overload
def evaluate(sae: Sequence[Any], *, out: str | Path | None = None, resume: bool = False,
             progress: bool = True, **settings: Any) -> list[Scorecard]: ...  # fmt: skip
@overload
def evaluate(sae: Any, *, out: str | Path | None = None, resume: bool = False,
             progress: bool = True, **settings: Any) -> Scorecard: ...  # fmt: skip
def evaluate(
    sae: Any, *, out: str | Path | None = None, resume: bool = False, progress: bool = True, **settings: Any
) -> Scorecard | list[Scorecard]:
    """Evaluate one autoencoder, or several together.

    Args:
        sae: a checkpoint's path or hub name, a ``SparseAutoencoder``, any object with ``encode`` and ``decode``, or a list
            of these. Those on the same hook share every forward pass of the language model below it.
        out: where to write: a ``.json`` file for a single autoencoder, else a folder that gets a file for each.
        resume: go on from what ``out`` holds already; refused where it was made with other settings.
        progress: show progress bars on standard error.
        **settings: see ``EvaluationSettings``.

    Returns:
        A scorecard, or a list of them in the order given.

    Raises:
        SaebenchError: something given is not right; raised before heavy work where that can be known.
    """
    several = isinstance(sae, list | tuple)
    candidates = list(sae) if several else [sae]
    if not candidates:
        raise SaebenchError("There is nothing to evaluate: give at least one checkpoint.")
    targets = _targets(out, candidates)
    run = EvaluationRun(candidates, EvaluationSettings(**settings), targets, resume, Progress(progress))
    cards = run.run()
    return cards if several else cards[0]


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
        SaebenchError: something given is not right.
    """
    saes, cut, corpus = prepare_together([sae], progress, **settings)
    return saes[0], cut, corpus


def prepare_together(saes: Sequence[Any], progress: Progress, **settings: Any) -> tuple[list[Autoencoder], Cut, TokenCorpus]:
    """Several autoencoders on one hook, as ``prepare`` does with one.

    Raises:
        SaebenchError: something given is not right, or their hooks differ.
    """
    places: list[Path | None] = [None] * len(saes)
    return EvaluationRun(saes, EvaluationSettings(evaluators=(), **settings), places, False, progress).prepare()


def _targets(out: str | Path | None, candidates: Sequence[Any]) -> list[Path | None]:
    """Where each result goes; every place is checked. A single result may be named by its file."""
    if out is None:
        return [None] * len(candidates)
    if len(candidates) == 1 and Path(out).suffix == ".json":
        check_writable(Path(out))
        return [Path(out)]
    names = [_short_name(candidate) for candidate in candidates]
    unique = [f"{name}-{index}" if names.count(name) > 1 else name for index, name in enumerate(names)]
    for name in unique:
        check_writable(Path(out) / f"{name}.json")
    return [Path(out) / f"{name}.json" for name in unique]


def _short_name(candidate: Any) -> str:
    origin = candidate if isinstance(candidate, str | Path) else getattr(getattr(candidate, "info", None), "origin", None)
    text = str(origin or type(candidate).__name__).rstrip("/")
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in Path(text).name)
    return kept.strip(".-") or "sae"


class EvaluationRun:
    """The steps of an evaluation, cheap checks first."""

    def __init__(
        self,
        candidates: Sequence[Any],
        settings: EvaluationSettings,
        targets: Sequence[Path | None],
        resume: bool,
        progress: Progress,
    ) -> None:
        self.candidates, self.settings, self.targets = candidates, settings, targets
        self.resume, self.progress, self.clock = resume, progress, Clock()
        self.evaluators = find_evaluators(settings.evaluators)
        check_controls(settings.controls)
        self.infos = [self._describe(candidate) for candidate in candidates]
        self.model_name = model_name(settings.model, self.infos)
        self.hooks = [self._hooks(info) for info in self.infos]
        if isinstance(settings.corpus, str):
            open_text(settings.corpus, revision=settings.corpus_revision)
        for info, hooks in zip(self.infos, self.hooks, strict=True):
            if info is not None and isinstance(self.model_name, str):
                check_against_config(self.model_name, info, hooks)

    def run(self) -> list[Scorecard]:
        """Load, evaluate, write. Results are written as evaluators finish."""
        with self.clock.stage("loading autoencoders"):  # first: a damaged one is found before the model is loaded
            loaded = [self._load_checkpoint(candidate) for candidate in self.candidates]
        model = self._load_model()
        cuts = {hooks: model.cut(*hooks) for hooks in dict.fromkeys(self.hooks)}
        saes = [self._fitted(sae, cuts[hooks]) for sae, hooks in zip(loaded, self.hooks, strict=True)]
        with self.clock.stage("tokenising"):
            corpus = self._corpus(model)
        cards: dict[int, Scorecard] = {}
        for hooks, cut in cuts.items():
            indices = [index for index, each in enumerate(self.hooks) if each == hooks]
            cards |= self._evaluate_hook(indices, [saes[index] for index in indices], cut, corpus)
        return [cards[index] for index in range(len(self.candidates))]

    def open(self) -> tuple[list[Autoencoder], Cut]:
        """The candidates, and their language model cut at the hook that they share; nothing is evaluated.

        Raises:
            SaebenchError: their hooks differ.
        """
        if len(set(self.hooks)) > 1:
            named = ", ".join(sorted({str(reads) for reads, _ in self.hooks}))
            raise SaebenchError(f"The autoencoders are of different hooks ({named}): this needs them on one.")
        loaded = [self._load_checkpoint(candidate) for candidate in self.candidates]
        cut = self._load_model().cut(*self.hooks[0])
        return [self._fitted(each, cut) for each in loaded], cut

    def prepare(self) -> tuple[list[Autoencoder], Cut, TokenCorpus]:
        """The same, and the text."""
        saes, cut = self.open()
        return saes, cut, self._corpus(cut.model)

    def _describe(self, candidate: Any) -> CheckpointInfo | None:
        if isinstance(candidate, str | Path):
            return checkpoints.inspect(candidate)
        return candidate.info if isinstance(candidate, SparseAutoencoder) else None

    def _hooks(self, info: CheckpointInfo | None) -> tuple[Hook, Hook]:
        reads = self.settings.hook or (info.hook_in if info is not None else None)
        if reads is None:
            raise SaebenchError("The checkpoint does not say where it reads: name the place with --hook.")
        own_out = info.hook_out if info is not None and self.settings.hook is None else None
        writes = self.settings.hook_out or own_out or reads
        return parse_hook(reads), parse_hook(writes)

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
        return checkpoints.load(candidate, device)

    def _fitted(self, candidate: Any, cut: Cut) -> Autoencoder:
        """The candidate as an autoencoder whose widths fit the hooks."""
        sae = wrap(candidate, cut.d_in)
        if (sae.d_in, sae.d_out) != (cut.d_in, cut.d_out):
            raise SaebenchError(
                f"{sae.info.origin} reads {sae.d_in} and writes {sae.d_out} values, but {cut.hook_in} has {cut.d_in}"
                + (f" and {cut.hook_out} {cut.d_out}." if cut.hook_out != cut.hook_in else ".")
            )
        return sae

    def _corpus(self, model: LanguageModel) -> TokenCorpus:
        settings, info = self.settings, next((each for each in self.infos if each is not None), None)
        if isinstance(settings.corpus, TokenCorpus):
            return settings.corpus
        bos = settings.bos
        if bos is None and info is not None and info.prepend_bos is False:
            bos = "none"
        return load_corpus(
            settings.corpus,
            model.tokenizer,
            context=settings.context or (info.context if info is not None else None) or DEFAULT_CONTEXT,
            tokens=settings.tokens or None,
            bos=bos,
            exclude=settings.exclude,
            revision=settings.corpus_revision,
        )

    def _evaluate_hook(
        self, indices: list[int], saes: list[Autoencoder], cut: Cut, corpus: TokenCorpus
    ) -> dict[int, Scorecard]:
        shared = make_shared(corpus, len(cut.model.tokenizer))
        records = [Record(self, index, sae, cut, corpus) for index, sae in zip(indices, saes, strict=True)]
        streaming: list[tuple[Record, Judged]] = []
        for record in records:
            setups = {name: self._setup(record.sae, cut, corpus, shared, name) for name in self.evaluators}
            for name, evaluator in self.evaluators.items():
                evaluator.check(setups[name])
                record.uses(evaluator.definitions(setups[name].options))
            watching = {
                name: evaluator(setups[name])
                for name, evaluator in self.evaluators.items()
                if issubclass(evaluator, StreamingEvaluator) and name not in record.finished
            }
            if watching:
                setup = next(iter(setups.values()))
                streaming.append((record, Judged(record.sae, setup, watching)))
        if streaming:
            rows = self.settings.batch or max(1, TOKENS_PER_BATCH // corpus.context)
            judged = [one for _, one in streaming]
            clock = stream(judged, cut, corpus, shared, rows, self.progress)
            for record, one in streaming:
                record.stages |= clock.seconds
                for name, watcher in one.evaluators.items():
                    record.finish(name, watcher.compute, sum(clock.seconds.values()))
                record.failures |= {name: in_words(error) for name, error in one.failures.items()}
                record.write()
        for record in records:
            self._run_standalone(record, cut, corpus, shared)
        for name in self.settings.controls:
            run_control(name, self, records, cut, corpus)
        return {record.index: Scorecard(record.result()) for record in records}

    def _setup(self, sae: Autoencoder, cut: Cut, corpus: TokenCorpus, shared: Any, name: str) -> Setup:
        folder = Path(self.settings.data_dir).expanduser() if self.settings.data_dir else None
        options = dict(self.settings.options.get(name, {}))
        return Setup(sae, cut, corpus, shared, self.settings.seed, options, folder, self.progress)

    def _run_standalone(self, record: Record, cut: Cut, corpus: TokenCorpus, shared: Any) -> None:
        for name, evaluator in self.evaluators.items():
            if issubclass(evaluator, StreamingEvaluator) or name in record.finished:
                continue
            timer = Clock()
            with timer.stage(name):
                record.finish(name, evaluator(self._setup(record.sae, cut, corpus, shared, name)).compute, None)
            record.stages |= timer.seconds
            record.write()
