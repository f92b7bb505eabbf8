"""Fast paths are held by counting calls, not seconds: losing one makes a count grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import saebench
from saebench import notices
from saebench.lm import Cut, LanguageModel, Prefix
from saebench.report.tables import render_markdown, render_text
from saebench.sae import SparseAutoencoder, SparseLatents
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

CALLED_OFF = "the test calls it off"


@contextmanager
def counted_blocks(model: LanguageModel) -> Iterator[list[int]]:
    """Tokens that each block of the model computes."""
    tokens = [0] * model.n_layers

    def count(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens[layer] += (args[0] if args else kwargs["hidden_states"]).shape[:2].numel()

        return hook

    blocks = enumerate(model.bridge.blocks)
    handles = [block.register_forward_pre_hook(count(layer), with_kwargs=True) for layer, block in blocks]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def evaluate(saes: list[Any], model: LanguageModel, corpus: TokenCorpus, *evaluators: str, **settings: Any) -> Any:
    return saebench.evaluate(
        saes, model=model, hook=HOOK, corpus=corpus, evaluators=evaluators, progress=False, batch=8, **settings
    )


@pytest.mark.parametrize("n", [1, 3])
def test_autoencoders_on_a_hook_share_the_layers_below_and_the_clean_pass(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder], n: int
) -> None:
    """384 tokens: below the hook once, above it once clean and once for each autoencoder; ablated rows are alike."""
    saes = [make_sae(seed=seed) for seed in range(n)]
    assert tiny_model.readout is not None  # it was tried on a few tokens, once for the model
    with counted_blocks(tiny_model) as tokens:
        evaluate(saes, tiny_model, tiny_corpus, "reconstruction", "downstream")
    below, above = tokens[:2], tokens[2:]
    trial = 2  # a cut looks at the shapes of its hooks on two tokens
    ablated = 2 * 16  # one row for each pattern of excluded positions, of which there are two
    assert below == [384 + trial + ablated] * 2
    assert above == [(1 + n) * 384 + 2 * ablated] * 2  # ablated to zero, and to the mean


def test_layers_below_are_not_run_by_a_suffix(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    cut = tiny_model.cut(HOOK)
    prefix = cut.prefix(tiny_corpus.tokens[:2])
    with counted_blocks(tiny_model) as tokens:
        cut.suffix(prefix.outputs, prefix)
    assert tokens == [0, 0, 32, 32]
    with counted_blocks(tiny_model) as tokens:
        cut.prefix(tiny_corpus.tokens[:2])
    assert tokens == [32, 32, 0, 0]


def test_dense_latents_are_never_made(
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    make_sae: Callable[..., SparseAutoencoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decoding sums the decoder's rows of active latents: a code never becomes ``[tokens, n]``."""
    summed: Counter[str] = Counter()
    real = torch.nn.functional.embedding_bag

    def dense(self: Any) -> Any:
        raise AssertionError("a code was made dense")

    def embedding_bag(indices: Any, *args: Any, **kwargs: Any) -> Any:
        summed["rows"] += indices.numel()
        return real(indices, *args, **kwargs)

    monkeypatch.setattr(SparseLatents, "to_dense", dense)
    monkeypatch.setattr(torch.nn.functional, "embedding_bag", embedding_bag)
    card = evaluate([make_sae()], tiny_model, tiny_corpus, "reconstruction", "downstream")[0]
    assert card.result.failures == {}
    assert summed["rows"] == 8 * tiny_corpus.tokens_counted


def test_ablation_continues_rows_from_the_cache(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Callable[..., SparseAutoencoder]
) -> None:
    """With the cache an intervention computes its 5 positions; without it all positions from the start of the row."""
    options = {
        "ablation": {
            "tokens": 4,
            "tokens_per_row": 1,
            "horizon": 5,
            "baselines_per_token": 2,
            "latents_per_token": 64,
            "batch": 64,
        }
    }
    with counted_blocks(tiny_model) as tokens:
        card = evaluate([make_sae()], tiny_model, tiny_corpus, "ablation", options=options)[0]
    positions = card.result.evaluators["ablation"].details["by_token"]["position"]
    rows = 4 * (8 + 2 + 1) + 4 * (2 + 1)  # per token: latents, random directions, the row; channels, the row
    whole = sum(2 * (position + 5) for position in positions)  # each row once spliced, once clean
    tried = 2 * (max(positions) + 5) + 5  # whether the cache serves is tried on one row
    assert 5 * rows + whole <= tokens[3] <= 5 * rows + whole + tried
    assert card.result.notices == []


def test_a_forced_fallback_is_in_the_result_and_on_the_scorecard(
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    make_sae: Callable[..., SparseAutoencoder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def trouble(cut: Cut, outputs: Any, prefix: Prefix, start: int, length: int) -> str:
        return CALLED_OFF

    options = {"ablation": {"tokens": 4, "tokens_per_row": 1, "horizon": 5, "baselines_per_token": 2}}
    fast = evaluate([make_sae()], tiny_model, tiny_corpus, "ablation", options=options)[0]
    monkeypatch.setattr("saebench.evaluators.splicing.interventions.cache_trouble", trouble)
    monkeypatch.setattr(notices, "_said", set())
    saes = [make_sae(), make_sae(seed=1)]
    cards = evaluate(saes, tiny_model, tiny_corpus, "ablation", options=options)
    for card in cards:
        (said,) = card.result.notices
        assert CALLED_OFF in said and "same numbers" in said
        assert said in " ".join(render_text(card.result).split())
        assert CALLED_OFF in render_markdown(card.result) and CALLED_OFF in card._repr_html_()
    assert " ".join(capsys.readouterr().err.split()).count(CALLED_OFF) == 1
    assert cards[0].result.evaluators["ablation"].settings["key_value_cache"] is False
    assert cards[0]["ablation.sparsity"] == pytest.approx(fast["ablation.sparsity"], rel=1e-4)
    assert cards[0].result.identity() == fast.result.identity()


def test_notices_are_collected_apart_and_without_repetition() -> None:
    with notices.collect_notices() as outer:
        notices.notice("one")
        with notices.collect_notices() as inner:
            notices.notice("two")
            notices.notice("two")
    notices.notice("three")
    assert (outer, inner) == (["one", "two"], ["two"])
