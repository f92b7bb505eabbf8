"""The embedded SmolLM2 explains and scores its own latents, as the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from saebench.explaining.examples.collecting import ExampleSettings, collect, write_examples
from saebench.explaining.llm.cache import AnswerCache
from saebench.explaining.llm.client import ChatClient
from saebench.explaining.llm.endpoint import Endpoint
from saebench.explaining.llm.limits import Limits
from saebench.explaining.llm.protocol import load_protocol
from saebench.explaining.llm.report import evaluator_result
from saebench.explaining.llm.run import ExplanationRun
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.results import EvaluatorResult
from saebench.text.corpus import load_corpus
from tests.explaining.llm.chat_server import serve
from tests.explaining.llm.smollm_server import SmolLM
from tests.explaining.llm.word_latents import EMBEDDINGS, word_sae

pytestmark = pytest.mark.slow


def test_the_embedded_model_explains_and_scores(tmp_path: Path) -> None:
    model = LanguageModel.load("smollm2")
    words = [model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" list", " function", " file")]
    assert all(len(word) == 1 for word in words)
    sae = word_sae(model, [word[0] for word in words])
    cut, corpus = model.cut(EMBEDDINGS), load_corpus("python-docs", model.tokenizer, context=128, tokens=60_000)
    examples = write_examples(
        collect(sae, cut, corpus, ExampleSettings.defined(), 64, Progress(False)), tmp_path / "examples"
    )
    protocol = load_protocol(["detection", "intruder"])

    def explain(url: str) -> EvaluatorResult:
        endpoint, limits = Endpoint(url, "smollm2"), Limits(concurrency=2, timeout=300.0)
        client = ChatClient(endpoint, protocol.sampling.made(), limits, AnswerCache(tmp_path / "answers"))
        run = ExplanationRun(examples, protocol, client, client, latents=[0], progress=Progress(False))
        run.find_inactive(sae, cut, corpus, 64)
        return evaluator_result(run, run.run())

    with serve(SmolLM()) as server:
        first = explain(server.url)
        asked = len(server.requests)
        again = explain(server.url)
        assert len(server.requests) == asked
    one = first.details["latents"]["0"]
    assert first.metrics["unanswered"].value == 0.0 and again.metrics == first.metrics
    assert 0 < len(one["explanation"]) <= 1000 and asked == 1 + 1 + 8 + 5
    assert one["n"]["detection"] == 40 and "detection" not in one["unusable"]  # the server keeps to the form
    assert 0 <= one["scores"]["detection"] <= 1
    assert one["n"]["intruder"] + one["unusable"].get("intruder", 0) == 5
    assert first.details["calls"]["explainer"]["prompt_tokens"] > 500
