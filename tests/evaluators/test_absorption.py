"""First-letter absorption: a model and autoencoders with known answers, a slow reference, and the planted world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.absorption import Absorption, metrics_of
from saebench.evaluators.base import Measured, Setup
from saebench.evaluators.first_letter.protocol import read_first_letter_protocol
from saebench.evaluators.first_letter.scores import absorption
from saebench.evaluators.first_letter.words import LETTERS, letter_data, vocabulary_words
from saebench.evaluators.shared import make_shared
from saebench.lm import LanguageModel
from saebench.planted import plant
from saebench.progress import Progress
from saebench.results import EvaluatorResult
from saebench.sae import SparseLatents
from saebench.text.corpus import TokenCorpus
from tests.evaluators.first_letter_world import HOOK, OWN, LetterWorld, cosine, letter_world

PROTOCOL = read_first_letter_protocol()


@pytest.fixture(scope="module")
def world() -> LetterWorld:
    return letter_world()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "letters"))


def setup_of(world: LetterWorld, sae: Any, **options: Any) -> Setup:
    cut = world.model.cut(HOOK)
    return Setup(sae, cut, world.corpus, make_shared(world.corpus, len(world.model.tokenizer)), options=options)


def result(world: LetterWorld, sae: Any) -> EvaluatorResult:
    setup = setup_of(world, sae)
    Absorption.check(setup)
    return Absorption(setup).compute()


def held_out(world: LetterWorld) -> list[str]:
    data = letter_data(world.model.cut(HOOK), PROTOCOL, PROTOCOL.words.most, True, 0, Progress(False))
    return data.words[data.train :]


def by_letter(found: EvaluatorResult, column: str) -> dict[str, float]:
    rows = found.details["by_letter"]
    return {LETTERS[letter]: value for letter, value in zip(rows["letter"], rows[column], strict=True)}


def values(found: EvaluatorResult) -> dict[str, float | None]:
    return {name: each.value for name, each in found.metrics.items()}


def test_no_absorption_where_every_letter_has_its_own_latent(world: LetterWorld) -> None:
    found = result(world, world.sae({}))
    assert values(found) == {
        "usable_letters": 26, "probe_f1": 1, "absorption_fraction": 0, "full_absorption": 0, "main_latents": 1,
        "main_latents_f1": 1, "main_latents_recall": 1,
    }  # fmt: skip
    assert found.details["latents"] == {letter: [index] for index, letter in enumerate(LETTERS)}
    assert found.details["words"]["fitted"] == 522 and found.details["words"]["held_out"] == 131
    assert set(by_letter(found, "stable").values()) == {1}


def test_planted_absorption_is_measured_exactly(world: LetterWorld) -> None:
    """Every third word is absorbed whole, every fifth other one by half: the scores are shares of the held-out words."""
    absorbed = {
        index: 1.0 if index % 3 == 0 else 0.5
        for index, word in enumerate(world.words)
        if len(word) == 4 and (index % 3 == 0 or index % 5 == 0)
    }
    found = result(world, world.sae(absorbed))
    shares: dict[str, list[float]] = {letter: [] for letter in LETTERS}
    for word in held_out(world):
        shares[word[0].lower()].append(absorbed.get(world.words.index(word), 0.0))
    for letter, each in shares.items():
        assert by_letter(found, "words")[letter] == len(each)
        assert by_letter(found, "fraction")[letter] == pytest.approx(sum(each) / len(each), abs=2e-3)
        assert by_letter(found, "full")[letter] == pytest.approx(sum(share == 1.0 for share in each) / len(each), abs=1e-6)
        assert by_letter(found, "main_latents")[letter] == 1
    means = [sum(each) / len(each) for each in shares.values()]
    assert values(found)["absorption_fraction"] == pytest.approx(sum(means) / 26, abs=1e-3)
    error = found.metrics["absorption_fraction"].standard_error
    assert error == pytest.approx(float(torch.tensor(means).std()) / 26**0.5, abs=1e-3)
    recall = values(found)["main_latents_recall"]
    assert recall is not None and recall < 0.75  # a probe on the letter's latent misses the words that are absorbed whole


def test_a_split_letter_has_two_main_latents(world: LetterWorld) -> None:
    found = result(world, world.sae({}, split=(0, 4)))
    assert {letter for letter, count in by_letter(found, "main_latents").items() if count == 2} == {"a", "e"}
    first = 26 + len(world.words)
    assert sorted(found.details["latents"]["a"]) == [0, first] and sorted(found.details["latents"]["e"]) == [4, first + 1]
    assert values(found)["absorption_fraction"] == 0 and values(found)["main_latents_f1"] == 1


def test_set_up_runs_once_for_all_autoencoders_and_is_cached(world: LetterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(world, world.sae({}))
    first = Absorption(setup).compute()
    monkeypatch.setattr(world.model, "run", None)  # any pass of the model would fail
    again = Absorption(Setup(world.sae({}), setup.cut, setup.corpus, setup.shared)).compute()
    from_disk = Absorption(setup_of_cut(world, setup)).compute()
    assert first.metrics == again.metrics == from_disk.metrics


def setup_of_cut(world: LetterWorld, setup: Setup) -> Setup:
    return Setup(setup.sae, setup.cut, setup.corpus, make_shared(world.corpus, len(world.model.tokenizer)))


def test_a_model_without_the_feature_gets_reasons_instead_of_numbers() -> None:
    blind = letter_world(known=False)
    found = result(blind, blind.sae({}))
    assert found.metrics["usable_letters"].value == 0
    for name in ("absorption_fraction", "full_absorption", "main_latents", "main_latents_f1"):
        each = found.metrics[name]
        assert each.value is None and each.reason is not None
        assert "too small" in each.reason and "0 of 26 letters" in each.reason and "20 are needed" in each.reason


def test_a_vocabulary_without_words_gets_a_reason(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Any
) -> None:
    setup = Setup(make_sae(), tiny_model.cut("blocks.1.hook_resid_post"), tiny_corpus, make_shared(tiny_corpus, 200))
    found = Absorption(setup).compute()
    reason = found.metrics["absorption_fraction"].reason
    assert reason is not None and "only 0 words of letters alone" in reason
    assert found.metrics["usable_letters"].value == 0


def test_metrics_follow_from_the_details(world: LetterWorld) -> None:
    found = result(world, world.sae({index: 1.0 for index in range(40, 90)}))
    measured = Measured(1, 1, 1, "m", 1, 1, 1, 0)
    assert {each.name: each for each in Absorption.recomputed(found, measured)} == found.metrics


def test_bad_input_is_one_sentence(
    world: LetterWorld, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: Any
) -> None:
    cut = tiny_model.cut("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    setup = Setup(make_sae(), cut, tiny_corpus, make_shared(tiny_corpus, 200))
    with pytest.raises(SaebenchError, match="writes where it reads"):
        Absorption.check(setup)
    with pytest.raises(SaebenchError, match="no option 'word'"):
        Absorption.check(setup_of(world, world.sae({}), word=3))


def test_words_and_positions_come_from_the_tokenizer(world: LetterWorld) -> None:
    """The word's last token is the last of the prefix: its activation is its embedding, whatever stands before it."""
    assert vocabulary_words(world.model.tokenizer) == world.words
    data = letter_data(world.model.cut(HOOK), PROTOCOL, 300, True, 3, Progress(False))
    assert len(data.words) == 300 == len(set(data.words)) and data.train == 240 and data.left_out == 0
    for word, letter, row in zip(data.words, data.letters.tolist(), data.activations, strict=True):
        index = world.words.index(word)
        assert letter == world.letter_of(index) and float(row[26 + index]) == OWN and float(row.sum()) == 3 + OWN


def test_words_of_a_real_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's byte-level tokenizer: words with a space in front, and no token joined with the text around it."""
    from saebench.evaluators.first_letter.words import _prompts
    from saebench.lm.loading import load_tokenizer

    monkeypatch.undo()  # the user's own cache has the converted model
    try:
        tokenizer = load_tokenizer("smollm2")
    except SaebenchError as error:
        pytest.skip(str(error))
    words = vocabulary_words(tokenizer)
    assert len(words) > 20_000 and " the" in words and "the" in words and all(word.strip().isalpha() for word in words)
    some = words[1000:1100]
    ids = _prompts(some, PROTOCOL.prompt, tokenizer, torch.Generator().manual_seed(0))
    for word, each in zip(some, ids, strict=True):
        assert each is not None and tokenizer.decode(each).endswith(f"\n{word}")
        assert tokenizer.decode(each).count(" has the first letter: ") == 10


def slow(code: Tensor, x: Tensor, probe: Tensor, decoder: Tensor, main: list[int]) -> tuple[list[float], list[bool]]:
    """An independent reading of the definition, one word and one latent at a time, on dense latents."""
    fractions, fulls = [], []
    for word in range(code.shape[0]):
        p = float(x[word] @ probe / probe.norm())
        parts = [(float(code[word, j]) * float(decoder[j] @ probe / probe.norm()), cosine(decoder[j], probe), j)
                 for j in range(code.shape[1])]  # fmt: skip
        m = sum(part for part, _, j in parts if j in main)
        others = sorted((part for part, cos, j in parts if j not in main and cos >= 0.1 and part > 0), reverse=True)[:3]
        a = sum(others)
        if m >= p or a / p < 0.4:
            fractions.append(0.0)
        elif m <= 0:
            fractions.append(1.0)
        else:
            fractions.append(max(0.0, min(1.0, min(a, p - m) / (min(a, p - m) + m))))
        top, cos, _ = max(parts)
        silent = all(float(code[word, j]) < 1e-8 for j in main)
        fulls.append(silent and cos >= 0.025 and p >= 0 and top / p >= 0.4)
    return fractions, fulls


def test_agrees_with_a_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(60, 12, generator=generator)
    probe = torch.randn(12, generator=generator)
    code = torch.rand(400, 60, generator=generator) * (torch.rand(400, 60, generator=generator) < 0.08)
    decoder[[3, 7]] += 0.6 * probe
    decoder[10:20] += 0.4 * probe
    code[1::2, 3] += 0.3
    code[::2, [3, 7]] = 0  # the main latents are silent on half of the words
    x = code @ decoder + 0.3 * torch.randn(400, 12, generator=generator)
    found = absorption(SparseLatents.from_dense(code), x, probe, decoder, [3, 7], PROTOCOL.absorption)
    fractions, fulls = slow(code, x, probe, decoder, [3, 7])
    assert found.fraction.tolist() == pytest.approx(fractions, abs=1e-4)
    assert found.full.tolist() == fulls
    assert sum(fulls) > 20 and len({round(each, 3) for each in fractions}) > 20  # the cases occur
    rescaled = SparseLatents.from_dense(code / 4)
    again = absorption(rescaled, x, probe, decoder * 4, [3, 7], PROTOCOL.absorption)
    assert again.fraction.tolist() == pytest.approx(fractions, abs=1e-4) and again.full.tolist() == fulls


def test_planted_parents_are_absorbed_by_their_children() -> None:
    """The planted world's dose of absorption: main latents fall silent on all words of an absorbed parent."""
    world = plant()
    corpus = world.corpus(8192, seed=1)
    code, x = world.code(corpus), world.activations(corpus)
    means = []
    for dose in (0.0, 0.5, 1.0):
        sae = world.damaged("absorbed", dose)
        latents = sae.encode(x)
        each = []
        for parent in world.features.of_kind("parent"):
            here = code[:, parent] > 0
            found = absorption(
                latents.rows(here), x[here] - sae.b_dec, world.features.directions[parent], sae.W_dec, [parent],
                PROTOCOL.absorption,
            )  # fmt: skip
            each.append(float(found.full.double().mean()))
        means.append(sum(each) / len(each))
    assert means[0] < 0.02 and 0.25 < means[1] < 0.6 and means[2] > 0.6


def test_the_command_line_finds_it(world: LetterWorld, tmp_path: Path) -> None:
    card = saebench.evaluate(
        world.sae({}), model=world.model, corpus=world.corpus, evaluators=["absorption"], progress=False
    )
    assert card.result.evaluators["absorption"].metrics["absorption_fraction"].value == 0
    assert card.result.definitions["probes/first-letter"] == PROTOCOL.sha256


def test_with_few_words_a_letters_latents_are_chosen_at_random() -> None:
    """One minibatch an epoch: 50 steps of Adam move every weight of a letter equally far, so that the start decides.

    Nothing is absorbed, and by the latents that the start chooses most words would be: the evaluator says so instead.
    ``saebench.audit.unplanted`` says why absorption is not part of the audit.
    """
    world = letter_world(own=1.0)
    found = result(world, world.sae({}))
    assert found.metrics["probe_f1"].value == 1.0 and found.metrics["usable_letters"].value == 26
    f1, full = (sum(by_letter(found, name).values()) / 26 for name in ("main_f1", "full"))
    assert f1 < 0.5 < full
    assert sum(by_letter(found, "stable").values()) < 13
    for name in ("absorption_fraction", "full_absorption", "main_latents", "main_latents_f1", "main_latents_recall"):
        reason = found.metrics[name].reason
        assert found.metrics[name].value is None and reason is not None
        assert "could not be fitted: in 50 steps of Adam on 522 words" in reason and "of 26 letters" in reason


def test_older_results_without_that_check_keep_their_numbers(world: LetterWorld) -> None:
    found = result(world, world.sae({}))
    columns = {name: each for name, each in found.details["by_letter"].items() if name != "stable"}
    again = metrics_of({**found.details, "by_letter": columns}, PROTOCOL)
    assert {each.name: each for each in again} == found.metrics
