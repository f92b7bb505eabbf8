"""The time of the standard suite for one autoencoder, without what needs data of the hub."""

from __future__ import annotations

from typing import Any

import torch

import saebench
from saebench.suites import read_suite
from saebench.text.corpus import make_corpus
from tests.device.evaluation import random_model, random_sae, seconds
from tests.device.sizes import Sizes

NOT_HERE = ("probe_loss",)
"""Evaluators whose data sets are on the hub."""


def run(sizes: Sizes) -> dict[str, Any]:
    settings = {**read_suite("standard").settings, **sizes.suite}
    settings["evaluators"] = [name for name in settings["evaluators"] if name not in NOT_HERE]
    settings["options"] = {name: each for name, each in settings["options"].items() if name in settings["evaluators"]}
    settings["dtype"] = sizes.dtype
    model = random_model(sizes)
    context, tokens = settings.pop("context"), settings.pop("tokens")
    rows = torch.randint(3, 200, (tokens // context, context), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    corpus = make_corpus(rows, model.tokenizer, name="random tokens", bos="row")
    sae = random_sae(sizes, model.config.hidden_size, sizes.sae_latents[0], 0)
    by_evaluator: dict[str, float] = {}
    failures: dict[str, str] = {}

    def evaluate() -> None:
        card = saebench.evaluate(sae, model=model, corpus=corpus, batch=sizes.batch, progress=False, **settings)
        by_evaluator.update({name: each.duration_seconds for name, each in card.result.evaluators.items()})
        failures.update(card.result.failures)

    took = seconds(evaluate)
    return {"latents": sizes.sae_latents[0], "wall_seconds": took, "by_evaluator": by_evaluator, "failures": failures,
            "controls": list(settings["controls"]), "left_out": list(NOT_HERE)}  # fmt: skip
