"""Endpoints within this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saebench.explaining.llm.answers import Intruder
from saebench.explaining.llm.cache import AnswerCache
from saebench.explaining.llm.client import ChatClient
from saebench.explaining.llm.endpoint import Endpoint, Prompt, Sampling
from saebench.explaining.llm.limits import Limits
from saebench.explaining.llm.local import answered_here, answering_here


def test_a_function_answers_every_question_and_nothing_is_cached(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> str:
        seen.append(request)
        return f"answer {len(seen)}"

    prompt = Prompt("test", "a system", "a question", Intruder)
    with answered_here(answer) as url, answered_here(lambda request: "another") as other:
        assert url != other
        client = ChatClient(Endpoint(url, "m"), Sampling(0.0, 100, 7), Limits(1), AnswerCache(tmp_path))
        assert client.known
        client.check()
        replies = [*client.ask_all([prompt]), client.ask(prompt)]
    assert [reply.answer.text for reply in replies if reply.answer] == ["answer 1", "answer 2"]
    assert seen[0]["model"] == "m" and seen[0]["max_tokens"] == 100 and seen[0]["seed"] == 7
    assert [each["content"] for each in seen[0]["messages"]] == ["a system", "a question"]
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
    assert answering_here(url) is None and answering_here(other) is None
