"""Which windows are shown, held out and taken for inactive."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from saebench.explaining.examples.folder import ActivatingExamples
from saebench.explaining.llm.explainer import Writer, explanation_prompt
from saebench.explaining.llm.protocol import Protocol, load_protocol
from saebench.explaining.llm.windows import Material, Pool, Window, shortfall, split, with_inactive
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.text.corpus import TokenCorpus
from tests.explaining.llm.word_latents import DEAD, EVERYWHERE, RARE, WORDS, planted_examples

Planted = tuple[ActivatingExamples, Pool, TokenCorpus, torch.Tensor]


@pytest.fixture(scope="module")
def planted(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    sae, cut, corpus, examples = planted_examples(tiny_model, tmp_path_factory.mktemp("planted") / "examples")
    pool = Pool.sample(corpus, 8192, seed=0)
    pool.encode(sae, cut, range(sae.n_latents), 17, Progress(False))
    inputs = cut.prefix(corpus.tokens).inputs.flatten(0, 1).float()
    codes = sae.encode(inputs).to_dense().unflatten(0, corpus.tokens.shape)
    return examples, pool, corpus, codes * ~corpus.excluded.unsqueeze(-1)


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    return load_protocol()


def material(planted: Planted, protocol: Protocol, latent: int) -> Material:
    found = split(planted[0].latent(latent), protocol, 0)
    assert isinstance(found, Material)
    complete = with_inactive(found, planted[1], protocol, 0)
    assert isinstance(complete, Material)
    return complete


@pytest.mark.parametrize("latent", range(WORDS))
def test_windows_are_what_they_say(planted: Planted, protocol: Protocol, latent: int) -> None:
    _, _, corpus, codes = planted
    found = material(planted, protocol, latent)
    assert len(found.shown) == 16 and [len(group) for group in found.groups] == [4] * 5 and len(found.inactive) == 20
    for window in [*found.shown, *found.active, *found.inactive]:
        first = max(window.place - 20, 0)
        last = min(window.place + 11, corpus.context - 1)
        assert torch.tensor(window.tokens).equal(corpus.tokens[window.row, first : last + 1])
        torch.testing.assert_close(torch.tensor(window.activations), codes[window.row, first : last + 1, latent])
    assert all(codes[window.row, window.place, latent] > 0 for window in [*found.shown, *found.active])
    assert all(not any(window.activations) for window in found.inactive)
    assert all(not corpus.excluded[window.row, window.place] for window in found.inactive)


@pytest.mark.parametrize("latent", range(WORDS))
def test_held_out_windows_share_no_token_with_what_was_shown(planted: Planted, protocol: Protocol, latent: int) -> None:
    found = material(planted, protocol, latent)
    tests = [(window.row, window.place) for window in found.active]
    shown = [(window.row, window.place) for window in found.shown]
    for index, (row, place) in enumerate(tests):
        for other_row, other_place in shown + tests[:index]:
            assert row != other_row or abs(place - other_place) >= protocol.window.size


def test_groups_go_from_strong_to_weak(protocol: Protocol, planted: Planted) -> None:
    """With activations made to differ, each group is stronger than the next, and so are the explainer's quantiles."""
    from dataclasses import replace

    latent = planted[0].latent(0)
    random = [replace(example, value=float(index + 1), activations=example.activations * (index + 1))
              for index, example in enumerate(latent.random)]  # fmt: skip
    found = split(replace(latent, random=random), protocol, 0)
    assert isinstance(found, Material)
    strengths = [[max(window.activations) for window in group] for group in found.groups]
    assert all(min(stronger) > max(weaker) for stronger, weaker in pairwise(strengths))
    assert found.active[:5] == [group[0] for group in found.groups]


def test_latents_that_cannot_be_explained_say_why(planted: Planted, protocol: Protocol) -> None:
    examples, pool, _, _ = planted
    assert split(examples.latent(DEAD), protocol, 0) == "never active"
    rare = split(examples.latent(RARE), protocol, 0)
    assert isinstance(rare, str) and rare.startswith("too few activations: 4 strong and 0 random windows")
    everywhere = split(examples.latent(EVERYWHERE), protocol, 0)
    if isinstance(everywhere, Material):
        everywhere = with_inactive(everywhere, pool, protocol, 0)
    assert isinstance(everywhere, str) and "0 windows without an activation, of 20 needed" in everywhere


def test_batches_and_repetition_change_nothing(planted: Planted, protocol: Protocol, tiny_model: LanguageModel) -> None:
    from tests.explaining.llm.word_latents import EMBEDDINGS, planted_sae

    _, pool, corpus, _ = planted
    other = Pool.sample(corpus, 8192, seed=0)
    other.encode(planted_sae(tiny_model), tiny_model.cut(EMBEDDINGS), [3], 128, Progress(False))
    assert other.inactive(3, 20, 20, 11, 5) == pool.inactive(3, 20, 20, 11, 5)
    assert other.inactive(3, 20, 20, 11, 5) != pool.inactive(3, 20, 20, 11, 6)


def test_examples_that_are_too_small_are_refused(planted: Planted, protocol: Protocol, tmp_path: Path) -> None:
    examples = planted[0]
    assert shortfall(examples, protocol) is None
    for changes, sentence in (
        ({"before": 80}, "keep 63 tokens before an activation and 32 after it, and the protocol shows 80 and 11"),
        ({"before": 40, "after": 30}, "are of rows of 64 tokens, shorter than the window of 71"),
    ):
        window = protocol.window.model_copy(update=changes)
        assert sentence in (shortfall(examples, protocol.model_copy(update={"window": window})) or "")
    scoring = protocol.scoring.model_copy(update={"each": 20})
    assert "needs 8 and 108" in (shortfall(examples, protocol.model_copy(update={"scoring": scoring})) or "")


def test_marks() -> None:
    window = Window((0, 1, 2, 3, 4), (0.0, 10.0, 2.9, 3.0, 0.0), 0, 1)
    assert window.marked(0.3) == [1, 3]
    writer = Writer(["a", " b\n", " ⟪c⟫", "d", "\r"], load_protocol())
    assert writer.text(window, [1, 2]) == "a⟪ b\\n <c>⟫d\\r"
    assert writer.text(window, [0, 2, 4]) == "⟪a⟫ b\\n⟪ <c>⟫d⟪\\r⟫"
    assert writer.text(window) == "a b\\n <c>d\\r"


def test_control_tokens_are_shown_as_words() -> None:
    pieces = ["<|im_start|>", "<s>", "</s>", "<bos>", "<div>", "<", "a", "<|", "[s]"]
    shown = Writer(pieces, load_protocol()).pieces(Window(tuple(range(9)), (0.0,) * 9, 0, 0))
    assert shown == ["[im_start]", "[s]", "[/s]", "[bos]", "<div>", "<", "a", "<|", "[s]"]


def test_the_explainer_sees_marks_and_strengths() -> None:
    windows = [Window((0, 1), (0.0, 5.0), 0, 1), Window((1, 0), (2.5, 0.1), 1, 0)]
    prompt = explanation_prompt(Material(7, 5.0, windows, [], []), Writer([" x", " cat"], load_protocol()))
    assert prompt.user == "Text 1: x⟪ cat⟫\nActivations: cat 10\nText 2: ⟪ cat⟫ x\nActivations: cat 5"
    assert prompt.prompt_tokens == pytest.approx((len(prompt.system) + len(prompt.user)) / 4)
