"""What tests of several evaluators need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import saebench
from saebench.lm import LanguageModel
from saebench.results import EvaluatorResult
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus


class PlainSae:
    """The same codes and reconstructions as ``sae`` (without biases or scaling), through ``encode`` and ``decode`` alone."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(x).to_dense()

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.sae.W_dec


def result_of(
    name: str, sae: Any, model: LanguageModel, corpus: TokenCorpus, options: Mapping[str, Any], **settings: Any
) -> EvaluatorResult:
    """The result of a single evaluator, which must not fail."""
    card = saebench.evaluate(
        sae, model=model, corpus=corpus, evaluators=[name], progress=False, options={name: options}, **settings
    )
    assert card.result.failures == {}
    return card.result.evaluators[name]
