"""The reader of planted features, in place of a language model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import saebench
from saebench.explaining.llm.local import answered_here
from saebench.planted import PlantedWorld
from saebench.planted.reader import FeatureReader


def request(system: str, *texts: str) -> dict[str, object]:
    user = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}


def test_an_explanation_is_the_feature_that_fits_best(world: PlantedWorld) -> None:
    reader, features = FeatureReader(world.features), world.features
    bigram = features.of_kind("bigram")[0]
    first, second = features.patterns[bigram]
    alone = f"w{second}w{second}w{second + 1}"
    asked = request("Complete the sentence", f"w{first}<<w{second}>>w9w{second}", f"w8w{first}<<w{second}>>{alone}")
    assert json.loads(reader.answer(asked)) == {"explanation": f"feature {bigram}"}
    scoring = request("List the numbers", f"w{first}w{second}", alone, f"w9w{first}w{second}")
    scoring["messages"][1]["content"] += f"\nExplanation: this unit is active on feature {bigram}.\n"  # type: ignore[index]
    assert json.loads(reader.answer(scoring)) == {"active": [1, 3]}


def test_the_oracle_is_explained_and_random_latents_are_not(
    world: PlantedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path))
    with answered_here(FeatureReader(world.features).answer) as url:
        cards = saebench.evaluate(
            [world.oracle(), world.damaged("random", 1.0, seed=5)], model=world.model, hook=world.hook, progress=False,
            corpus=world.corpus(8192, seed=1), evaluators=["autointerp"],
            options={"autointerp": {"url": url, "model": "planted features", "latents": 8}},
        )  # fmt: skip
    oracle, random = (card.metric("autointerp.autointerp_score").value for card in cards)
    assert oracle > 0.9 > random + 0.1
