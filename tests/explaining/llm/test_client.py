"""The real client against a real server: failures, refusals, limits and the cache."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from saebench.errors import SaebenchError
from saebench.explaining.llm.answers import Explanation, Intruder, Simulation, parse, schema, verdicts_form
from saebench.explaining.llm.cache import Answer, AnswerCache, Dialect
from saebench.explaining.llm.client import ChatClient
from saebench.explaining.llm.endpoint import Endpoint, Prompt, Sampling
from saebench.explaining.llm.limits import Limits, Pacer
from tests.explaining.llm.chat_server import Raw, completion, serve

SAMPLING = Sampling(temperature=0.0, max_tokens=50, seed=3)
KEY = "sk-secret-of-a-test"
QUICK = Limits(concurrency=4, timeout=5.0, retries=3, first_wait=0.01, longest_wait=0.05)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def question(number: int = 0) -> Prompt:
    return Prompt("intruder", "Find it.", f"Question {number}", Intruder, 10.0, 5.0)


def client(url: str, folder: Path, limits: Limits = QUICK, **changes: Any) -> ChatClient:
    return ChatClient(Endpoint(url, "some-model", **changes), SAMPLING, limits, AnswerCache(folder))


def echo(request: dict[str, Any]) -> str:
    return f"answer to {request['messages'][1]['content']}"


def test_answers_come_back_in_order_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with serve(echo) as server:
        first = client(server.url, tmp_path).ask_all([question(n) for n in range(20)])
        asked = len(server.requests)
        second = client(server.url, tmp_path).ask_all([question(n) for n in range(20)])
    assert [reply.answer.text for reply in first if reply.answer] == [f"answer to Question {n}" for n in range(20)]
    assert [reply.answer for reply in first] == [reply.answer for reply in second]
    assert asked == len(server.requests) == 21  # one of them is the check
    assert not any(reply.cached for reply in first) and all(reply.cached for reply in second)
    assert first[7].answer is not None and first[7].answer.prompt_tokens == 4
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_the_request_has_the_requested_parameters(tmp_path: Path) -> None:
    with serve(echo) as server:
        client(server.url, tmp_path).ask_all([question()])
    assert server.requests[-1] == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Find it."}, {"role": "user", "content": "Question 0"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": schema(Intruder)},
    }


def test_the_cache_holds_no_key_and_no_part_of_a_file(tmp_path: Path) -> None:
    with serve(echo) as server:
        client(server.url, tmp_path).ask_all([question(n) for n in range(5)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6 and all(path.suffix == ".json" for path in files)
    assert not any(KEY in path.read_text() for path in files)


def test_the_same_question_is_asked_once(tmp_path: Path) -> None:
    with serve(echo) as server:
        replies = client(server.url, tmp_path).ask_all([question(1), question(2), question(1)])
    assert len(server.requests) == 3 and replies[0] == replies[2] != replies[1]


@pytest.mark.parametrize("change", [{"model": "other"}, {"url": "other"}, {"sampling": 1}, {"text": 1}])
def test_another_question_is_another_entry(tmp_path: Path, change: dict[str, Any]) -> None:
    with serve(echo) as server, serve(echo) as other:
        one = client(server.url, tmp_path)
        one.ask_all([question()])
        url = other.url if "url" in change else server.url
        sampling = Sampling(0.5, 50, 3) if "sampling" in change else SAMPLING
        endpoint = Endpoint(url, change.get("model", "some-model"))
        replies = ChatClient(endpoint, sampling, QUICK, AnswerCache(tmp_path)).ask_all(
            [question(1 if "text" in change else 0)]
        )
    assert not replies[0].cached


def test_a_damaged_entry_is_asked_again(tmp_path: Path) -> None:
    with serve(echo) as server:
        client(server.url, tmp_path).ask_all([question()])
        (entry,) = [path for path in tmp_path.rglob("*.json") if "Question 0" in path.read_text()]
        for content in ("", "{", '{"version": 1}', entry.read_text().replace("Question 0", "Question 1"), "[" * 100_000):
            entry.write_text(content)
            (reply,) = client(server.url, tmp_path).ask_all([question()])
            assert not reply.cached and reply.answer is not None and reply.answer.text == "answer to Question 0"
        (reply,) = client(server.url, tmp_path).ask_all([question()])
        assert reply.cached


BROKEN = completion("half", {"model": "m", "messages": []})[:40]


@pytest.mark.parametrize(
    "failure",
    [Raw(429), Raw(429, headers={"Retry-After": "0.01"}), Raw(500), Raw(503, "<html>", kind="text/html"), Raw(408),
     Raw(seconds=0.4), Raw(200, BROKEN), Raw(200, "no completion", kind="text/plain"), Raw(200, '{"choices": []}')],
    ids=["429", "429 with a wait", "500", "503", "408", "time-out", "broken JSON", "text", "no choices"],
)  # fmt: skip
def test_a_passing_failure_is_tried_again(tmp_path: Path, failure: Raw) -> None:
    failures = {"Question 1": 2}
    lock = threading.Lock()

    def sometimes(request: dict[str, Any]) -> str | Raw:
        content = request["messages"][1]["content"]
        with lock:
            failures[content] = failures.get(content, 0) - 1
            return failure if failures[content] >= 0 else echo(request)

    limits = Limits(4, timeout=0.2 if failure.seconds else 5.0, retries=3, first_wait=0.01, longest_wait=0.05)
    with serve(sometimes) as server:
        asked = client(server.url, tmp_path, limits)
        replies = asked.ask_all([question(n) for n in range(3)])
    assert [reply.answer.text for reply in replies if reply.answer] == [f"answer to Question {n}" for n in range(3)]
    assert asked.retries == 2 and len(server.requests) == 1 + 3 + 2


def test_unanswered_questions_are_reported_and_retried_later(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> str | Raw:
        return Raw(500) if request["messages"][1]["content"] == "Question 1" and broken else echo(request)

    broken = True
    with serve(script) as server:
        replies = client(server.url, tmp_path).ask_all([question(n) for n in range(3)])
        assert [reply.answer is None for reply in replies] == [False, True, False]
        assert replies[1].trouble == "it answered 500, 4 times"
        broken = False
        again = client(server.url, tmp_path).ask_all([question(n) for n in range(3)])
    assert [reply.cached for reply in again] == [True, False, True]
    assert again[1].answer is not None


def test_a_question_that_the_endpoint_does_not_take_is_not_repeated(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> str | Raw:
        too_long = Raw(400, '{"error": {"message": "context length exceeded"}}')
        return too_long if request["messages"][1]["content"] == "Question 1" else echo(request)

    with serve(script) as server:
        replies = client(server.url, tmp_path).ask_all([question(n) for n in range(3)])
    assert replies[1].trouble == "refused (400)" and len(server.requests) == 4


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [(Raw(401), "rejects the key (401)"), (Raw(403), "rejects the key (403)"), (Raw(404), "has no model 'some-model'"),
     (Raw(429, '{"error": {"code": "insufficient_quota", "message": "pay"}}'), "has no credit left"),
     (Raw(500), "does not work: it answered 500, 4 times"),
     (Raw(400, '{"error": {"message": "I am a teapot"}}'), "rejects a simple question (400): I am a teapot"),
     (Raw(200, "<html>welcome</html>", kind="text/html"), "not as a chat-completions server"),
     (Raw(200, '{"hello": 1}'), "not as a chat-completions server"),
     (Raw(seconds=0.5), "did not answer within 0.2 seconds")],
    ids=["401", "403", "404", "quota", "500", "400", "page", "other JSON", "slow"],
)  # fmt: skip
def test_a_bad_endpoint_is_found_by_the_check(tmp_path: Path, failure: Raw, sentence: str) -> None:
    limits = Limits(4, timeout=0.2 if failure.seconds else 5.0, retries=3, first_wait=0.01, longest_wait=0.05)
    with serve(lambda request: failure) as server, pytest.raises(SaebenchError) as caught:
        client(server.url, tmp_path, limits).check()
    assert sentence in str(caught.value) and server.url in str(caught.value)
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)
    if failure.status in (401, 403, 404) or "welcome" in failure.body:
        assert len(server.requests) == 1


def test_where_nothing_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(SaebenchError, match=r"^Nothing answers at .*: start the server, or correct --scorer-url\.$"):
        client(url, tmp_path, role="scorer").check()


@pytest.mark.parametrize("refused", ["max_tokens", "temperature", "seed", "response_format", "all"])
def test_an_endpoint_with_other_features_is_supported_and_cached(tmp_path: Path, refused: str) -> None:
    def script(request: dict[str, Any]) -> str | Raw:
        words = ["max_tokens", "temperature", "seed", "response_format"] if refused == "all" else [refused]
        wrong = [word for word in words if word in request]
        return (
            Raw(400, json.dumps({"error": {"message": f"Unsupported parameter: '{wrong[0]}'"}})) if wrong else echo(request)
        )

    with serve(script) as server:
        client(server.url, tmp_path).ask_all([question()])
        assert all(word not in server.requests[-1] for word in (refused,))
        asked = len(server.requests)
        (reply,) = client(server.url, tmp_path).ask_all([question()])
    assert reply.cached and len(server.requests) == asked
    if refused in ("max_tokens", "all"):
        assert server.requests[-1]["max_completion_tokens"] == 50


def test_the_run_ends_when_the_endpoint_does(tmp_path: Path) -> None:
    """Many questions, a long patience for each: five in a row without an answer must be enough."""
    with serve(lambda request: Raw(500) if "Question" in request["messages"][1]["content"] else "yes") as server:
        asked = client(server.url, tmp_path)
        asked.check()
        with pytest.raises(SaebenchError, match="no longer answers"):
            asked.ask_all([question(n) for n in range(200)])
        assert len(server.requests) < 1 + 4 * 15


def test_a_key_that_expires_ends_the_run(tmp_path: Path) -> None:
    with serve(echo) as server:
        asked = client(server.url, tmp_path)
        asked.check()
        server.answer = lambda request: Raw(401)
        with pytest.raises(SaebenchError, match="rejects the key"):
            asked.ask_all([question(n) for n in range(100)])
        assert len(server.requests) < 30


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    def interrupt(amount: float) -> None:
        raise KeyboardInterrupt

    with serve(echo) as server:
        with pytest.raises(KeyboardInterrupt):
            client(server.url, tmp_path).ask_all([question(n) for n in range(200)], interrupt)
        asked = len(server.requests) - 1
        assert 1 <= asked < 100 and not [each for each in threading.enumerate() if each.name.startswith("saebench-llm")]
        replies = client(server.url, tmp_path).ask_all([question(n) for n in range(200)])
    assert sum(reply.cached for reply in replies) == asked and len(server.requests) == 1 + 200


def test_no_more_at_once_than_allowed_but_as_many(tmp_path: Path) -> None:
    with serve(lambda request: Raw(body=completion("x", request), seconds=0.05)) as server:
        client(server.url, tmp_path).ask_all([question(n) for n in range(24)])
    assert 2 <= server.most_at_once <= 4


def test_the_rate_is_kept(tmp_path: Path) -> None:
    limits = Limits(concurrency=4, requests_per_minute=1200, timeout=5.0)
    with serve(echo) as server:
        start = time.monotonic()
        client(server.url, tmp_path, limits).ask_all([question(n) for n in range(10)])
        took = time.monotonic() - start
    assert took >= 10 * 0.05  # the check and ten questions, 50 ms apart


def test_the_pacer_counts_requests_tokens_and_pauses() -> None:
    now = [100.0]
    pacer = Pacer(Limits(requests_per_minute=60, tokens_per_minute=600), clock=lambda: now[0])
    assert pacer.reserve(5) == 0.0
    assert pacer.reserve(50) == pytest.approx(1.0)  # a second a request
    assert pacer.reserve(5) == pytest.approx(1.0 + 5.0)  # 50 tokens at 10 a second
    now[0] = 110.0
    assert pacer.reserve(1) == 0.0
    pacer.pause(7)
    assert pacer.reserve(1) == pytest.approx(7.0)


def test_waits_grow_and_respect_the_server() -> None:
    limits = Limits(first_wait=1.0, longest_wait=60.0)
    for attempt in range(1, 12):
        wait = limits.wait_before(attempt, {})
        assert min(2.0 ** (attempt - 1), 60) / 2 <= wait <= min(2.0 ** (attempt - 1), 60)
    assert limits.wait_before(1, {"retry-after": "20"}) == 20.0
    assert limits.wait_before(1, {"retry-after-ms": "2500", "retry-after": "20"}) == 2.5
    assert limits.wait_before(1, {"retry-after": "3600"}) == 60.0
    assert limits.wait_before(1, {"retry-after": "Fri, 1 Jan 2027 00:00:00 GMT"}) <= 1.0
    assert limits.wait_before(1, {"retry-after": "-5"}) <= 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"url": "localhost:8000"}, "must be an address"), ({"url": "file:///etc/passwd"}, "must be an address"),
     ({"url": "http://me:secret@host/v1"}, "must be a plain address"), ({"url": "http://host/v1?key=secret"}, "plain"),
     ({"model": " "}, "--explainer-model is empty"), ({"price_in": -1.0}, "two prices"),
     ({"url": "http://[::1/v1"}, "must be an address"), ({"key_variable": "sk-secret"}, "must be the name of")],
)  # fmt: skip
def test_invalid_endpoints_are_rejected_without_showing_the_key(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SaebenchError, match=sentence) as caught:
        Endpoint(**({"url": "http://localhost/v1", "model": "m"} | changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"concurrency": 0}, {"timeout": 0}, {"retries": -1}, {"requests_per_minute": float("nan")}]
)
def test_bad_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SaebenchError, match=r"must be (at least|more than)"):
        Limits(**changes)


def test_cost() -> None:
    assert Endpoint("http://h/v1", "m", price_in=0.5, price_out=2.0).cost(2_000_000, 500_000) == 2.0
    assert Endpoint("http://h/v1", "m", price_in=0.5).cost(1, 1) is None


def test_without_a_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with serve(echo) as server:
        client(server.url, tmp_path).check()
        client(server.url, tmp_path, key_variable="OTHER_KEY").check()
    assert server.keys == ["Bearer none", "Bearer sk-other"] and "OPENAI_API_KEY" not in os.environ


@pytest.mark.parametrize(
    ("text", "form", "found"),
    [('{"intruder": 3}', Intruder, Intruder(intruder=3)), ('```json\n{"intruder": 3}\n```', Intruder, Intruder(intruder=3)),
     ('<think>2?\nno</think>\n{"intruder": 3}', Intruder, Intruder(intruder=3)), ("The intruder is 3", Intruder, None),
     ('Sure: {"intruder": 3}', Intruder, None),
     ('{"intruder": "3"}', Intruder, None), ('{"intruder": 3, "why": 1}', Intruder, None),
     ('{"intruder": 3', Intruder, None), ("", Intruder, None), ('{"text_1": true, "text_2": 0}', verdicts_form(2), None),
     ('{"text_1": true}', verdicts_form(2), None), ('{"text_1": true, "text_2": true}', verdicts_form(1), None),
     ('{"text_2": true, "text_1": false}', verdicts_form(2), verdicts_form(2)(text_1=False, text_2=True)),
     ('{"explanation": "  "}', Explanation, None),
     ('{"explanation": " a\\n b"}', Explanation, Explanation(explanation="a b")),
     ('{"explanation": "a\\u001b[31m b\\u0000"}', Explanation, Explanation(explanation="a[31m b")),
     (json.dumps({"explanation": "x" * 1001}), Explanation, None), ("[" * 100_000, Simulation, None)],
)  # fmt: skip
def test_only_answers_of_the_form_are_usable(text: str, form: Any, found: Any) -> None:
    assert parse(text, form) == found


def test_schemas_are_plain(tmp_path: Path) -> None:
    """Endpoints with strict schemas want every field required and no other, and refuse keywords of bounds."""
    for form in (Explanation, verdicts_form(5), Intruder, Simulation):
        text = json.dumps(schema(form))
        assert '"additionalProperties": false' in text and "description" not in text and "title" not in text
        assert not any(word in text for word in ("minimum", "maximum", "minLength", "maxItems"))
    cache = AnswerCache(tmp_path)
    cache.put_dialect({"a": 1}, Dialect(seed=False))
    assert cache.dialect({"a": 1}) == Dialect(seed=False) and cache.dialect({"a": 2}) is None
    cache.put({"q": 1}, Answer(text="é"))
    assert cache.get({"q": 1}) == Answer(text="é")
