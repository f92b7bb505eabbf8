"""The interface of evaluators: an object that is updated during one pass over a corpus, or one that runs on its own.

An evaluator is a class registered in the entry-point group ``saebench.evaluators``. One instance evaluates one
autoencoder.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.options import read_options
from saebench.evaluators.state import restored
from saebench.lm import Cut, Prefix, RunLosses
from saebench.progress import Progress
from saebench.results import EvaluatorResult, Metric, Result
from saebench.sae import Autoencoder, SparseAutoencoder, SparseLatents

if TYPE_CHECKING:
    from saebench.evaluators.shared import Shared
    from saebench.text.corpus import TokenCorpus

GROUP = "saebench.evaluators"
DEFAULT_EVALUATORS = ("reconstruction", "downstream")


@dataclass(frozen=True)
class Setup:
    """The inputs of an evaluator.

    Attributes:
        sae: the autoencoder that it evaluates.
        cut: the language model, cut at the autoencoder's hooks.
        corpus: the tokens, and which positions are excluded.
        shared: figures of the language model alone, computed once for all autoencoders.
        seed: of any randomness in the evaluator.
        options: the user's settings for this evaluator.
        data_dir: a folder with data sets' files, where the user has one.
        rows: where only some rows of the corpus are evaluated, their numbers; each row gives what it gives in a complete
            evaluation.
        progress: where progress is shown.
    """

    sae: Autoencoder
    cut: Cut
    corpus: TokenCorpus
    shared: Shared
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    rows: Tensor | None = None
    progress: Progress = field(default_factory=lambda: Progress(shown=False))


@dataclass(frozen=True)
class TokenBlock:
    """Some of a batch's counted tokens, encoded and decoded.

    Attributes:
        inputs: ``[tokens, d_in]`` float32, what was encoded.
        targets: ``[tokens, d_out]`` float32, the target of the reconstruction.
        latents: the code.
        reconstruction: ``[tokens, d_out]`` float32, in the model's own units.
        rows: ``[tokens]``, each token's row within the batch.
        positions: ``[tokens]``, each token's position within its row.
        token_ids: ``[tokens]``.
    """

    inputs: Tensor
    targets: Tensor
    latents: SparseLatents
    reconstruction: Tensor
    rows: Tensor
    positions: Tensor
    token_ids: Tensor


@dataclass(frozen=True)
class CleanBatch:
    """A batch of rows with the outputs of the clean model.

    Attributes:
        tokens: ``[rows, context]``.
        counted: ``[rows, context]`` bool, the positions that count.
        loss_mask: ``[rows, context - 1]`` bool, the predictions that count in cross-entropies.
        prefix: the activations at the cut.
        probabilities: ``[rows, context, V]`` float32, the clean model's; None where no evaluator needs logits.
        negentropy: ``[rows, context]``, ``sum(p log p)`` of the clean model, or None likewise.
        cross_entropy: ``[rows, context - 1]`` nats, of the clean model; None where no evaluator splices.
        top_token: ``[rows, context]``, its most likely next token, or None where no evaluator needs logits.
        shared: figures of the batch that an evaluator computes once for all autoencoders, by name.
        further: the losses of the runs that evaluators asked for (``further_ends``), by name.
    """

    tokens: Tensor
    counted: Tensor
    loss_mask: Tensor
    prefix: Prefix
    probabilities: Tensor | None = None
    negentropy: Tensor | None = None
    cross_entropy: Tensor | None = None
    top_token: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)
    further: dict[str, RunLosses] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a result says about its autoencoder and model, for recomputing metrics from details.

    Attributes:
        n_latents, d_in, d_out: of the autoencoder.
        model: the language model's name; ``n_parameters``: its size.
        rows: of the corpus; ``tokens``: those that counted.
        seed: of the evaluation.
    """

    n_latents: int
    d_in: int
    d_out: int
    model: str
    n_parameters: int
    rows: int
    tokens: int
    seed: int

    @classmethod
    def of(cls, result: Result) -> Measured:
        """From a result."""
        sae, model, corpus = result.sae, result.model, result.corpus
        return cls(
            sae.n_latents, sae.d_in, sae.d_out, model.name, model.n_parameters, corpus.rows, corpus.tokens_counted,
            result.seed,
        )  # fmt: skip


class Evaluator(ABC):
    """The base class of all evaluators.

    Class attributes:
        name: as used in options and results.
        version: of its definition; increased by a change that changes numbers.
        description: one line for ``saebench evaluators``.
        defaults: its options, all whole numbers from 1, with their defaults; None where it reads its options itself.
        needs_weights: whether it needs the weights of the encoder and decoder, not only ``encode`` and ``decode``.
        of_weights_alone: whether its metrics depend on the autoencoder's weights alone, not on the language model.
        samples: the details that ``recomputed`` reads; those of controls are kept in results too.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    description: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, int] | None] = None
    needs_weights: ClassVar[bool] = False
    of_weights_alone: ClassVar[bool] = False
    samples: ClassVar[tuple[str, ...]] = ("by_row",)

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.options = self.read_options(setup)

    @classmethod
    def read_options(cls, setup: Setup) -> dict[str, int]:
        """The options with their ``defaults``; empty where the evaluator has none or reads them itself.

        Raises:
            SaebenchError: an option is unknown or not a whole number from 1.
        """
        return {} if cls.defaults is None else read_options(cls.name, setup.options, cls.defaults)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where this evaluator cannot run, before heavy work."""
        cls.read_options(setup)
        if cls.needs_weights and not isinstance(setup.sae, SparseAutoencoder):
            raise SaebenchError(
                f"The evaluator {cls.name} needs weights, which a {type(setup.sae).__name__} does not have: "
                "leave it out or give a checkpoint."
            )

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """SHA-256 of the definition files that numbers with this ``setup`` depend on, by kind and name."""
        return {}

    @abstractmethod
    def compute(self) -> EvaluatorResult:
        """The result."""

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """The metrics that a result's ``samples`` determine, computed from them alone; leaderboards require all of them.

        Args:
            found: this evaluator's part of a result, perhaps from a stranger.
            measured: what the result says besides.

        Raises:
            ValueError, KeyError, TypeError: the details are not as ``compute`` writes them.
        """
        return []

    def result(
        self, metrics: Sequence[Metric], details: dict[str, Any] | None = None, settings: dict[str, Any] | None = None
    ) -> EvaluatorResult:
        """Build this evaluator's result; the engine adds the duration."""
        return EvaluatorResult(
            name=self.name,
            version=self.version,
            metrics={metric.name: metric for metric in metrics},
            details=details or {},
            settings=settings or {},
            duration_seconds=0.0,
        )


class StreamingEvaluator(Evaluator):
    """An evaluator that is updated during the one pass over the corpus for all autoencoders of a hook.

    Class attributes:
        needs_logits: whether it needs the logits of the model with the reconstruction spliced in.
        needs_losses: whether it needs that model's losses. Where no evaluator of a pass needs logits, losses come without
            them (``compare``), which is faster; otherwise from the logits (``splice``).
        row_columns: the names of ``row_sums``.
        summed: the attributes that hold its sums (``saebench.evaluators.state``), so that several processes can each
            evaluate a part of the text; empty where they cannot.
    """

    needs_logits: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False
    row_columns: ClassVar[tuple[str, ...]] = ()
    summed: ClassVar[tuple[str, ...]] = ()

    def row_sums(self) -> Mapping[str, Tensor]:
        """The sums by row of text so far (``[groups]`` float64 each), as ``details.by_row`` of the result will have them.

        Only those that are known at any time during the pass: errors of metrics follow from them before its end.
        """
        return {}

    def start_batch(self, batch: CleanBatch) -> None:
        """Start a batch."""

    def observe(self, block: TokenBlock) -> None:
        """Update with some of the batch's counted tokens, encoded and decoded."""

    def splice(self, batch: CleanBatch, logits: Tensor) -> None:
        """Update with the logits ``[rows, context, V]`` of the spliced model (``needs_logits`` or ``needs_losses``)."""

    def further_ends(self, batch: CleanBatch) -> Mapping[str, Tensor]:
        """Other runs of the model to compare with the clean one, by a name that all autoencoders share.

        Inputs of the unembedding, ``[rows, context, d_model]``; ``compare`` finds their losses in ``batch.further``.
        """
        return {}

    def compare(self, batch: CleanBatch, losses: RunLosses) -> None:
        """Update with the losses of the spliced model (where ``needs_losses``)."""

    def end_batch(self) -> None:
        """Finish a batch."""

    def empty(self) -> StreamingEvaluator:
        """A new instance with the same settings, to restore the sums of another part of the text in."""
        return type(self)(self.setup)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the sums by those of another instance, as ``tensors_of(other, self.name)`` gave them."""
        restored(self, self.name, tensors)

    @abstractmethod
    def merge(self, other: StreamingEvaluator) -> None:
        """Add the state of an instance that was updated with later rows."""


def installed_evaluators() -> dict[str, type[Evaluator]]:
    """Every evaluator found through the entry points, of this package and of others, by name.

    Raises:
        SaebenchError: an entry point cannot be imported or is not an evaluator.
    """
    found: dict[str, type[Evaluator]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            evaluator = entry.load()
        except Exception as error:
            raise SaebenchError(f"The evaluator {entry.name} ({entry.value}) cannot be imported: {error}") from error
        if not (isinstance(evaluator, type) and issubclass(evaluator, Evaluator)):
            raise SaebenchError(f"The entry point {entry.name} ({entry.value}) is not a saebench evaluator.")
        found[entry.name] = evaluator
    return found


def find_evaluators(names: Sequence[str]) -> dict[str, type[Evaluator]]:
    """The requested evaluators.

    Raises:
        SaebenchError: one is not installed (the nearest name is suggested).
    """
    installed = installed_evaluators()
    for name in names:
        if name not in installed:
            near = difflib.get_close_matches(name, installed, n=1, cutoff=0.0)
            raise SaebenchError(
                f"There is no evaluator {name!r}; did you mean {near[0]!r}? Installed: {', '.join(installed)}."
                if near
                else f"There is no evaluator {name!r}, and none is installed: reinstall saebench."
            )
    return {name: installed[name] for name in dict.fromkeys(names)}
