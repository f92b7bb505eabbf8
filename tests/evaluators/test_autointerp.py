"""SAEBench's automated interpretation, with readers whose scores are known behind a real HTTP endpoint."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.autointerp import AutoInterp
from saebench.evaluators.base import Measured
from saebench.explaining.autointerp.entries import Entries
from saebench.explaining.autointerp.protocol import read_autointerp_protocol
from saebench.explaining.autointerp.questions import Verdict, score_answer
from saebench.explaining.autointerp.windows import Windows, choose_windows
from saebench.explaining.llm.answers import ActiveTexts
from saebench.explaining.llm.windows import Window
from saebench.planted import PlantedWorld, plant
from saebench.results import EvaluatorResult
from saebench.text.corpus import TokenCorpus
from tests.explaining.llm.chat_server import Raw, Script, serve

PROTOCOL = read_autointerp_protocol()
LATENTS = 12


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return plant()


@pytest.fixture(scope="module")
def corpus(world: PlantedWorld) -> TokenCorpus:
    return world.corpus(16_384, seed=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path / "cache"))


def texts_of(request: dict[str, Any]) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", request["messages"][1]["content"], flags=re.MULTILINE)


def kind_of(request: dict[str, Any]) -> str:
    system = request["messages"][0]["content"]
    return "explanation" if "Complete the sentence" in system else "scoring" if "List the numbers" in system else "check"


def words(text: str) -> list[str]:
    return re.findall(r"w\d+", text)


def reader(request: dict[str, Any]) -> str:
    """Explains a latent by the word that is marked most often, and names the texts that hold it."""
    kind = kind_of(request)
    if kind == "explanation":
        marked = Counter(
            word for text in texts_of(request) for part in re.findall("<<(.*?)>>", text) for word in words(part)
        )
        return json.dumps({"explanation": f"the word {marked.most_common(1)[0][0]}"})
    if kind == "check":
        return '{"intruder": 1}'
    word = re.findall(r"the word (w\d+)", request["messages"][1]["content"])[0]
    return json.dumps({"active": [number for number, text in enumerate(texts_of(request), 1) if word in words(text)]})


def names_none(request: dict[str, Any]) -> str:
    return '{"active": []}' if kind_of(request) == "scoring" else reader(request)


def contrary(request: dict[str, Any]) -> str:
    if kind_of(request) != "scoring":
        return reader(request)
    named = set(json.loads(reader(request))["active"])
    return json.dumps({"active": [number for number in range(1, 15) if number not in named]})


def run(world: PlantedWorld, corpus: TokenCorpus, answer: Script, sae: Any = None, **options: Any) -> EvaluatorResult:
    with serve(answer) as server:
        card = saebench.evaluate(
            sae or world.oracle(), model=world.model, corpus=corpus, evaluators=["autointerp"], progress=False,
            options={"autointerp": {"url": server.url, "model": "m", "latents": LATENTS} | options},
        )  # fmt: skip
    assert card.result.failures == {}
    return card.result.evaluators["autointerp"]


def test_a_perfect_reader_of_latents_of_one_word(world: PlantedWorld, corpus: TokenCorpus) -> None:
    found = run(world, corpus, reader)
    assert found.metrics["autointerp_score"].n + len(found.details["skipped"]) == LATENTS
    scores = []
    for latent, one in found.details["latents"].items():
        texts = re.findall(r"^\d+\. (.*)$", one["question"], flags=re.MULTILINE)
        assert len(texts) == 14 and len(one["active"]) >= 4
        word = words(one["explanation"])[0]
        expected = [number for number, text in enumerate(texts, 1) if word in words(text)]
        assert one["named"] == expected
        right = sum((number in one["active"]) == (number in expected) for number in range(1, 15))
        assert one["score"] == pytest.approx(right / 14)
        scores.append(right / 14)
        if world.features.kinds[int(latent)] == "token":
            assert word == f"w{world.features.patterns[int(latent)][0]}" and one["score"] >= 12 / 14
    assert found.metrics["autointerp_score"].value == pytest.approx(sum(scores) / len(scores))
    error = float(torch.tensor(scores).std()) / len(scores) ** 0.5
    assert found.metrics["autointerp_score"].standard_error == pytest.approx(error, rel=1e-4)
    assert found.metrics["unusable_answers"].value == 0


def test_known_scores_of_other_readers(world: PlantedWorld, corpus: TokenCorpus) -> None:
    """Naming none is right about the inactive windows; the contrary reader is right where the good one is wrong."""
    good = run(world, corpus, reader)
    none = run(world, corpus, names_none)
    active = [len(one["active"]) for one in good.details["latents"].values()]
    share = sum((14 - each) / 14 for each in active) / len(active)
    assert none.metrics["autointerp_score"].value == pytest.approx(share)
    assert none.metrics["balanced_accuracy"].value == 0.5
    opposite = run(world, corpus, contrary)
    assert opposite.metrics["autointerp_score"].value == pytest.approx(1 - (good.metrics["autointerp_score"].value or 0))


def test_unusable_answers_are_counted_and_left_out(world: PlantedWorld, corpus: TokenCorpus) -> None:
    bad = iter(['{"active": [15]}', '{"active": [0, 1]}', "1, 2, 3"])

    def unreliable(request: dict[str, Any]) -> str:
        return next(bad, reader(request)) if kind_of(request) == "scoring" else reader(request)

    found = run(world, corpus, unreliable, concurrency=1)
    assert found.details["unusable"] == {"explanations": 0, "answers": 3}
    score, share = found.metrics["autointerp_score"], found.metrics["unusable_answers"]
    assert share.value == pytest.approx(3 / share.n) and score.n == share.n - 3


def test_an_endpoint_that_fails_half_way_is_resumed(world: PlantedWorld, corpus: TokenCorpus, tmp_path: Path) -> None:
    """Other evaluators go on; the second run asks only what was not answered."""
    seen = [0]

    def dies(request: dict[str, Any]) -> str | Raw:
        seen[0] += kind_of(request) == "scoring"
        return Raw(500) if seen[0] > 4 else reader(request)

    out = tmp_path / "result.json"
    with serve(dies) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        options = {"url": server.url, "model": "m", "latents": LATENTS, "retries": 1, "concurrency": 1}
        settings: dict[str, Any] = {
            "model": world.model, "corpus": corpus, "evaluators": ["autointerp", "dictionary"], "progress": False,
            "options": {"autointerp": options}, "out": out,
        }  # fmt: skip
        failed = saebench.evaluate(world.oracle(), **settings).result
    assert list(failed.failures) == ["autointerp"] and not failed.complete and "dictionary" in failed.evaluators
    assert "answers" in failed.failures["autointerp"] and failed.failures["autointerp"].count(". ") == 0
    with serve(reader, port) as server:
        resumed = saebench.evaluate(world.oracle(), **settings, resume=True).result
        asked = Counter(map(kind_of, server.requests))
    assert resumed.complete and resumed.failures == {}
    latents = resumed.evaluators["autointerp"].metrics["autointerp_score"].n
    assert asked["scoring"] == latents - 4 and asked["explanation"] == 0
    fresh = run(world, corpus, reader)
    assert fresh.metrics == resumed.evaluators["autointerp"].metrics


def test_metrics_follow_from_the_details(world: PlantedWorld, corpus: TokenCorpus) -> None:
    found = run(world, corpus, reader)
    measured = Measured(world.oracle().n_latents, 1, 1, "m", 1, 1, 1, 0)
    assert {each.name: each for each in AutoInterp.recomputed(found, measured)} == found.metrics


def test_bad_input_is_one_sentence(world: PlantedWorld, corpus: TokenCorpus) -> None:
    def evaluate(**options: Any) -> None:
        saebench.evaluate(world.oracle(), model=world.model, corpus=corpus, evaluators=["autointerp"], progress=False,
                          options={"autointerp": options})  # fmt: skip

    with pytest.raises(SaebenchError, match=r"--option autointerp\.url=http"):
        evaluate()
    with pytest.raises(SaebenchError, match=r"Nothing answers at .*correct --option autointerp\.url"):
        evaluate(url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(SaebenchError, match="no option 'latent'"):
        evaluate(url="http://127.0.0.1:9/v1", model="m", latent=3)


def test_dead_latents_give_a_reason(world: PlantedWorld, corpus: TokenCorpus) -> None:
    from dataclasses import replace

    from saebench.sae import JumpReLU

    oracle = world.oracle()
    dead = replace(oracle, activation=JumpReLU(torch.full((oracle.n_latents,), 1e9)))
    found = run(world, corpus, reader, sae=dead)
    assert found.metrics["live_latents"].value == 0
    score = found.metrics["autointerp_score"]
    assert score.value is None and score.reason is not None and "use more --tokens" in score.reason


def test_windows_agree_with_a_slow_reading_of_the_protocol() -> None:
    """Dense activations, one position at a time: the strongest that do not overlap, weaker ones, labels by activation."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 100, (40, 50), generator=generator)
    dense = torch.rand(40, 50, generator=generator) * (torch.rand(40, 50, generator=generator) < 0.1)
    flat = dense.flatten()
    places = flat.nonzero().flatten()
    found = choose_windows(5, places, flat[places], tokens, PROTOCOL, 0)
    assert isinstance(found, Windows)
    order = sorted(((float(dense[r, c]), r, c) for r in range(40) for c in range(10, 40) if dense[r, c] > 0), reverse=True)
    top: list[tuple[int, int]] = []
    for _, row, column in order:
        if all(row != r or abs(column - c) > 10 for r, c in top):
            top.append((row, column))
    top = top[:12]
    weakest = min(float(dense[r, c]) for r, c in top)
    centres = [(window.row, window.place) for window in [*found.shown, *found.asked]]
    assert set(top) <= set(centres) and len(found.shown) == 15 and len(found.asked) == 14
    weaker = [(r, c) for r, c in (((w.row, w.place)) for w in found.shown) if (r, c) not in top]
    assert len(weaker) == 5 and all(0 < float(dense[r, c]) < weakest for r, c in weaker)
    strongest = max(float(dense[r, c - 10 : c + 11].max()) for r, c in top)
    assert found.threshold == pytest.approx(0.01 * strongest)
    for window in [*found.shown, *found.asked]:
        expected = dense[window.row, window.place - 10 : window.place + 11]
        assert list(window.activations) == pytest.approx(expected.tolist())
        assert list(window.tokens) == tokens[window.row, window.place - 10 : window.place + 11].tolist()
    assert found.truth == [max(window.activations) > found.threshold for window in found.asked]
    peaks = [max(window.activations) for window in found.shown]
    assert peaks == sorted(peaks, reverse=True)


def test_too_few_activations_give_a_reason() -> None:
    tokens, places = torch.zeros(40, 50, dtype=torch.int64), torch.arange(25, 2000, 50)
    assert "only 5 activations" in str(choose_windows(0, places[:5], torch.ones(5), tokens, PROTOCOL, 0))
    assert "only 0 activations are weaker" in str(choose_windows(0, places, torch.ones(40), tokens, PROTOCOL, 0))


def test_random_windows_in_which_the_latent_is_active_count_as_active() -> None:
    """SAEBench counts every random window as inactive: on a latent that is active everywhere a right answer would score 4 of
    14."""
    tokens = torch.zeros(40, 50, dtype=torch.int64)
    values = torch.rand(2000, generator=torch.Generator().manual_seed(0)) + 0.5
    found = choose_windows(0, torch.arange(2000), values, tokens, PROTOCOL, 0)
    assert isinstance(found, Windows) and found.truth == [True] * 14
    verdict = score_answer(found, ActiveTexts(active=list(range(1, 15))))
    assert verdict == Verdict(14, 0, 0, 0) and verdict.accuracy == 1.0 and verdict.balanced_accuracy is None


def test_a_verdict_counts_each_kind() -> None:
    window = {True: Window((1,), (1.0,), 0, 0), False: Window((1,), (0.0,), 0, 0)}
    windows = Windows(0, 0.5, [], [window[each] for each in (True, True, False, False, False)])
    verdict = score_answer(windows, ActiveTexts(active=[1, 3]))
    assert verdict == Verdict(hits=1, misses=1, false_alarms=1, rejections=2)
    assert verdict.accuracy == 0.6 and verdict.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert score_answer(windows, ActiveTexts(active=[1, 3, 1])) == verdict
    assert score_answer(windows, ActiveTexts(active=[1, 6])) is None


def test_entries_do_not_depend_on_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, values = torch.randint(0, 50, (4000,), generator=generator), torch.rand(4000, generator=generator)
    places = torch.arange(4000)

    def collected(sizes: int, most: int) -> Entries:
        entries = Entries(50, seed=3, most=most)
        for part in places.split(sizes):
            entries.add(latents[part], places[part], values[part])
        return entries

    whole = collected(4000, 1000)
    kept = whole.live(0)
    assert 0 < kept.numel() <= 12 and sum(int(whole.counts[each]) for each in kept.tolist()) <= 1000
    for sizes in (7, 500):
        parts = collected(sizes, 1000)
        assert torch.equal(parts.live(0), kept) and torch.equal(parts.counts, whole.counts)
        for latent, (where, size) in parts.of(kept.tolist()).items():
            mine = latents == latent
            assert torch.equal(where, places[mine]) and torch.equal(size, values[mine])
    first, second = Entries(50, 3, 1000), Entries(50, 3, 1000)
    first.add(latents[:2000], places[:2000], values[:2000])
    second.add(latents[2000:], places[2000:], values[2000:])
    first.merge(second)
    assert torch.equal(first.live(0), kept) and torch.equal(first.counts, whole.counts)
