"""Losses without logits: the same as those of whole logits, made by the model itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import saebench
from saebench import notices
from saebench.lm import LanguageModel, Readout, readout
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK


def slow_losses(logits: Tensor, clean: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, divergence from the clean logits and agreement, in float64, from whole logits."""
    own, reference = logits.double().log_softmax(-1), clean.double().log_softmax(-1)
    entropy = -own[:, :-1].gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    return entropy, (reference.exp() * (reference - own)).sum(-1), own.argmax(-1) == reference.argmax(-1)


@pytest.mark.parametrize(("block", "cells"), [(7, 100), (64, 64 * 12), (1024, 2**20)])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_losses_are_those_of_whole_logits_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch, block: int, cells: int, cap: float | None, biased: bool
) -> None:
    monkeypatch.setattr(readout, "BLOCK", block)
    monkeypatch.setattr(readout, "CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.nn.Linear(16, 50, bias=biased).requires_grad_(False)
    unembedding.weight.normal_(generator=generator)
    if biased:
        unembedding.bias.normal_(generator=generator)
    runs = torch.randn(3, 2, 9, 16, generator=generator)
    tokens = torch.randint(0, 50, (2, 9), generator=generator)
    entropy, others = Readout(unembedding, cap).compare(runs[0], list(runs[1:]), tokens)
    logits = unembedding(runs)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    torch.testing.assert_close(entropy, slow_losses(logits[0], logits[0], tokens)[0], atol=1e-5, rtol=0, check_dtype=False)
    for found, own in zip(others, logits[1:], strict=True):
        for each, expected in zip(vars(found).values(), slow_losses(own, logits[0], tokens), strict=True):
            torch.testing.assert_close(each, expected, atol=1e-5, rtol=0, check_dtype=False)


def test_a_run_does_not_diverge_from_itself() -> None:
    unembedding = torch.nn.Linear(16, 3000).requires_grad_(False)
    run = 100 * torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    _, (same,) = Readout(unembedding).compare(run, [run], torch.zeros(1, 5, dtype=torch.int64))
    assert same.divergence.abs().max() == 0 and bool(same.agrees.all())


def test_a_model_whose_logits_are_made_in_another_way_has_no_readout(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(Readout.of(tiny_model), Readout)
    monkeypatch.setattr(tiny_model.config, "final_logit_softcapping", 0.01, raising=False)
    assert Readout.of(tiny_model) == "its logits are not its unembedding's"
    monkeypatch.setattr(readout, "HOOK", "a hook that this model lacks")
    assert Readout.of(tiny_model) == "its unembedding is not one linear layer"


@pytest.mark.parametrize("hook", [HOOK, "blocks.2.hook_mlp_out"])
def test_an_evaluation_from_logits_finds_the_same_and_says_so(
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    make_sae: Callable[..., SparseAutoencoder],
    hook: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluators = ("downstream", "core", "shrinkage", "progressive")

    def evaluate() -> list[Result]:
        cards = saebench.evaluate(
            [make_sae(seed=0), make_sae(seed=1)], model=tiny_model, hook=hook, corpus=tiny_corpus,
            evaluators=evaluators, progress=False, batch=8,
        )  # fmt: skip
        return [card.result for card in cards]

    def losses(result: Result) -> list[dict[str, list[float]]]:
        details = [result.evaluators[name].details for name in evaluators]
        return [each[rows] for each in details for rows in ("by_row", "by_sampled_row") if rows in each]

    fast = evaluate()
    monkeypatch.setitem(tiny_model.__dict__, "_readout", "a forced reason")
    monkeypatch.setattr(notices, "_said", set())
    slow, again = evaluate(), evaluate()
    sentence = (
        "Losses are computed from all logits of a batch, more slowly and with the same numbers: "
        f"those of {tiny_model.name} cannot be made in parts (a forced reason)."
    )
    assert all(result.notices == [] for result in fast)
    assert all(result.notices == [sentence] for result in (*slow, *again))
    assert " ".join(capsys.readouterr().err.split()).count(sentence) == 1
    for one, other in zip(fast, slow, strict=True):
        for mine, its in zip(losses(one), losses(other), strict=True):
            assert mine.keys() == its.keys()
            for name in mine:
                torch.testing.assert_close(torch.tensor(mine[name]), torch.tensor(its[name]), atol=2e-5, rtol=1e-6)
