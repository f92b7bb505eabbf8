"""How to evaluate: the settings of a run, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.errors import check_at_least
from saebench.evaluators.base import DEFAULT_EVALUATORS
from saebench.lm import LanguageModel
from saebench.text.corpus import BosPolicy, TokenCorpus
from saebench.text.sources import PYTHON_DOCS

DEFAULT_TOKENS = 32_768
DEFAULT_CONTEXT = 128
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate. None means the checkpoint's value, or else the stated default.

    Attributes:
        model: hub name, folder, GGUF file, ``smollm2`` or ``gemma3-270m``; or a loaded ``LanguageModel``.
        hook: where the autoencoder reads; ``hook_out`` where it writes (transcoders).
        format: for checkpoints without a configuration, as are ``activation`` and ``scale``: see ``checkpoints.Given``.
        corpus: a text for ``load_corpus``, or a ``TokenCorpus``.
        corpus_revision: pins a data set on the hub.
        text_field: the column of a data set that holds the text; see ``open_text``.
        tokens: number of tokens of the text; 0 for all.
        context: length of a row (the checkpoint's, else 128).
        batch: rows per batch (1,024 tokens by default); results do not depend on it beyond rounding.
        dtype: of the language model: ``float32``, ``bfloat16`` or ``auto``.
        device: such as ``cuda``; several (``cuda:0,cuda:1``) or ``all`` divide the language model, and autoencoders are on
            the first; an accelerator where there is one.
        evaluators: names of those to run.
        seed: of everything random.
        bos: ``row``, ``text`` or ``none`` (the checkpoint's, else by the tokenizer).
        exclude: whether special tokens and first positions are excluded from averages.
        options: settings of single evaluators, by evaluator.
        controls: names from ``saebench.evaluation.controls.CONTROLS``; the same evaluators are run on each, for comparison.
        data_dir: a folder with the files of probing data sets; its path is not a setting of the result.
        suite: name and version of the suite that these settings are of, for the record.
        only_rows: numbers of the corpus's rows to which evaluators by row are limited, to reproduce a part of a result.
        precision: relative standard errors, such as ``2%`` or ``kl_divergence=1%,normalised_mse=2%``: rows are evaluated,
            up to ``tokens``, until they are that small; see ``saebench.evaluation.precision``.
    """

    model: str | LanguageModel | None = None
    hook: str | None = None
    hook_out: str | None = None
    format: str | None = None
    activation: str | None = None
    scale: str | None = None
    corpus: str | TokenCorpus = PYTHON_DOCS
    corpus_revision: str | None = None
    text_field: str = "text"
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
    suite: str = ""
    only_rows: Tensor | None = None
    precision: str | float | Mapping[str, float] | None = None

    @property
    def given(self) -> dict[str, str | None]:
        """What is said of checkpoints without a configuration, as arguments of ``checkpoints.load`` and ``inspect``."""
        return {"format": self.format, "activation": self.activation, "scale": self.scale}

    def __post_init__(self) -> None:
        check_at_least(self, {"tokens": 0, "batch": 1, "context": 2})
