from __future__ import annotations

from collections.abc import Callable

import pytest

import saebench
from saebench.lm import LanguageModel
from saebench.results import Result
from saebench.sae import SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK


@pytest.fixture(scope="session")
def tiny_results(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> dict[int, Result]:
    """Real results of the tiny model, by k."""
    from tests.conftest import make_sae

    make: Callable[..., SparseAutoencoder] = make_sae.__wrapped__()  # type: ignore[attr-defined]
    saes = [make(activation=TopK(k)) for k in (2, 4, 8, 16)]
    cards = saebench.evaluate(
        saes, model=tiny_model, hook=HOOK, corpus=tiny_corpus, progress=False, controls=["random", "pca"],
        evaluators=["reconstruction", "downstream", "shrinkage", "ablation"],
        options={"ablation": {"tokens": 12, "tokens_per_row": 2, "horizon": 5}},
    )  # fmt: skip
    return {k: card.result for k, card in zip((2, 4, 8, 16), cards, strict=True)}


@pytest.fixture(scope="session")
def real_result(tiny_results: dict[int, Result]) -> Result:
    return tiny_results[8]
