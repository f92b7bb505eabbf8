"""Prompts that share their heads and run in padded batches give the numbers of each prompt alone, in every architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from saebench.lm import Cut, LanguageModel, Prefix
from saebench.lm.prompts import Prompts
from saebench.notices import collect_notices
from tests.lm.test_model import CONFIGS, random_model

HEADS = ((), (5, 6, 7), (5, 6, 7, 8, 9))
TAILS = ((11,), (12, 13, 14, 15), (16, 17, 18), (19, 20))
IDS = [(*head, *tail) for tail in TAILS for head in HEADS]
STARTS = [len(head) for _ in TAILS for head in HEADS]
NUMBERS = [7, 0, 11, 4, 9, 2]
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out")


def prefix_of_tails(rows: Prompts, numbers: Sequence[int]) -> Prefix:
    found = [rows.cut.prefix(torch.tensor([rows.ids[number]])) for number in numbers]
    parts = {}
    for name in ("inputs", "outputs", "residual"):
        tails = [getattr(one, name)[0, rows.start(number) :] for one, number in zip(found, numbers, strict=True)]
        parts[name] = torch.nn.utils.rnn.pad_sequence(tails, batch_first=True)
    return Prefix(rows.tails(numbers), **parts)


def changed(outputs: Tensor) -> Tensor:
    return outputs + 0.5 * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))


def alone(cut: Cut, ids: tuple[int, ...], tail: Tensor, steps: int) -> tuple[Tensor, list[int]]:
    """Logits at the end of one prompt with its tail's activations replaced, and its completion, by whole passes."""
    rows, first = list(ids), None
    for _ in range(steps):
        prefix = cut.prefix(torch.tensor([rows]))
        outputs = prefix.outputs.clone()
        outputs[0, len(ids) - tail.shape[0] : len(ids)] = tail
        logits = cut.suffix(outputs, prefix)[0, -1]
        first = logits if first is None else first
        rows.append(int(logits.argmax()))
    assert first is not None
    return first, rows[len(ids) :]


@pytest.fixture(autouse=True)
def wide_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention windows as real models have them, wider than the prompts."""
    wide = copy.deepcopy(CONFIGS["gemma2"])
    wide.sliding_window = 128
    monkeypatch.setitem(CONFIGS, "gemma2", wide)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", CONFIGS)
def test_batches_agree_with_each_prompt_alone(name: str, hook: str) -> None:
    cut = random_model(name)[1].cut(hook)
    with collect_notices() as notices:
        rows = Prompts(cut, IDS, STARTS)
    assert not notices and [rows.start(number) for number in NUMBERS] == [STARTS[number] for number in NUMBERS]
    prefix = prefix_of_tails(rows, NUMBERS)
    outputs = changed(prefix.outputs)
    found, completed = rows.logits(NUMBERS, outputs, prefix), rows.complete(NUMBERS, 4, outputs, prefix)
    plain = rows.complete(NUMBERS, 4)
    for place, number in enumerate(NUMBERS):
        length = len(IDS[number]) - STARTS[number]
        logits, tokens = alone(cut, IDS[number], outputs[place, :length], 4)
        torch.testing.assert_close(found[place], logits, rtol=1e-4, atol=1e-4)
        assert completed[place] == tokens
        assert plain[place] == alone(cut, IDS[number], prefix.outputs[place, :length], 4)[1]


@pytest.mark.parametrize("cached", [True, False])
def test_completions_end_early(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are not changed by it."""
    model = random_model("llama")[1]
    if not cached:
        monkeypatch.setattr(model, "cache_argument", None)
    rows = Prompts(model.cut(HOOKS[0]), IDS, STARTS)
    prefix = prefix_of_tails(rows, NUMBERS)
    outputs = changed(prefix.outputs)
    whole = rows.complete(NUMBERS, 5, outputs, prefix)
    lengths = [2, 5, 1, 5, 4, 2]
    found = rows.complete(NUMBERS, 5, outputs, prefix, lambda place, tokens: len(tokens) == lengths[place])
    assert found == [each[:length] for each, length in zip(whole, lengths, strict=True)]
    assert rows.complete(NUMBERS, 5, outputs, prefix, lambda place, tokens: True) == [each[:1] for each in whole]


def test_gradients_are_those_of_whole_prompts(tiny_model: LanguageModel) -> None:
    rows = Prompts(tiny_model.cut(HOOKS[0]), IDS, STARTS)
    prefix = prefix_of_tails(rows, NUMBERS)
    outputs = changed(prefix.outputs).requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(rows.logits(NUMBERS, outputs, prefix).square().sum(), outputs)
    for place, number in enumerate(NUMBERS):
        whole, start = rows.cut.prefix(torch.tensor([IDS[number]])), STARTS[number]
        length = len(IDS[number]) - start
        tail = outputs[place, :length].detach().requires_grad_()
        with torch.enable_grad():
            spliced = torch.cat([whole.outputs[0, :start], tail]).unsqueeze(0)
            (slow,) = torch.autograd.grad(rows.cut.differentiable_suffix(spliced, whole)[0, -1].square().sum(), tail)
        torch.testing.assert_close(found[place, :length], slow, rtol=1e-3, atol=1e-4)
        assert not found[place, length:].any()


def test_heads_run_once(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt costs its tail and the tokens of its completion."""
    rows = Prompts(tiny_model.cut(HOOKS[0]), IDS, STARTS)
    run, seen = LanguageModel.run, []

    def count(self: LanguageModel, tokens: Tensor, *arguments: object, **named: object) -> object:
        seen.append(tokens.numel())
        return run(self, tokens, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "run", count)
    rows.complete([3, 4, 5], 3)
    assert seen == [3 * 4, 3, 3]


def test_a_model_without_a_cache_runs_whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")[1]
    cut = model.cut(HOOKS[1])
    fast = Prompts(cut, IDS, STARTS)
    outputs = changed(prefix_of_tails(fast, NUMBERS).outputs)
    expected = fast.complete(NUMBERS, 3, outputs, prefix_of_tails(fast, NUMBERS))
    monkeypatch.setattr(model, "cache_argument", None)
    with collect_notices() as notices:
        slow = Prompts(cut, IDS, STARTS)
    assert [slow.start(number) for number in NUMBERS] == [0] * 6
    assert [
        "Whole prompts run again for each token" in each and "accepts no key-value cache" in each for each in notices
    ] == [True]
    prefix = prefix_of_tails(slow, NUMBERS)
    whole = prefix.outputs.clone()
    for place, number in enumerate(NUMBERS):
        length = len(IDS[number]) - STARTS[number]
        whole[place, STARTS[number] : len(IDS[number])] = outputs[place, :length]
    assert slow.complete(NUMBERS, 3, whole, prefix) == expected
    torch.testing.assert_close(slow.logits(NUMBERS, whole, prefix), alone_logits(cut, outputs), rtol=1e-4, atol=1e-4)


def alone_logits(cut: Cut, outputs: Tensor) -> Tensor:
    lengths = [len(IDS[number]) - STARTS[number] for number in NUMBERS]
    return torch.stack(
        [alone(cut, IDS[number], outputs[place, : lengths[place]], 1)[0] for place, number in enumerate(NUMBERS)]
    )


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")[1]
    run = LanguageModel.run

    def blind(self: LanguageModel, tokens: Tensor, hooks: object, cache: object = None, **inputs: Tensor) -> object:
        return run(self, tokens, hooks, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "run", blind)
    with collect_notices() as notices:
        rows = Prompts(model.cut(HOOKS[0]), IDS, STARTS)
    assert rows.start(1) == 0 and len(notices) == 1 and "its logits differ by" in notices[0]


def test_a_window_shorter_than_the_prompts_is_found_out() -> None:
    CONFIGS["gemma2"].sliding_window = 8
    with collect_notices() as notices:
        rows = Prompts(random_model("gemma2")[1].cut(HOOKS[0]), IDS, STARTS)
    assert rows.start(1) == 0 and len(notices) == 1 and "attention window of 8 tokens" in notices[0]
