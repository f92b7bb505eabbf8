"""A real HTTP server in the test's process that speaks the chat-completions protocol, and answers as a script says."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Raw:
    """An answer that is not a completion: a status with any body, after some seconds."""

    status: int = 200
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    kind: str = "application/json"


Script = Callable[[dict[str, Any]], str | Raw]


@dataclass
class ChatServer:
    """What a test can see and set.

    Attributes:
        answer: called with each request's JSON; the text to answer, or something raw.
        requests: all requests' JSON, in order; ``keys`` their Authorization headers.
        most_at_once: how many were under way together.
    """

    answer: Script
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def completion(text: str, request: dict[str, Any]) -> str:
    words = sum(len(message["content"].split()) for message in request["messages"])
    usage = {"prompt_tokens": words, "completion_tokens": len(text.split()), "total_tokens": words + len(text.split())}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"]}
    return json.dumps(answer | {"choices": [choice], "usage": usage})


@contextmanager
def serve(answer: Script, port: int = 0) -> Iterator[ChatServer]:
    state = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(request)
                state.keys.append(self.headers.get("Authorization"))
                state.under_way += 1
                state.most_at_once = max(state.most_at_once, state.under_way)
            try:
                found = Raw(404) if self.path != "/v1/chat/completions" else state.answer(request)
                raw = Raw(body=completion(found, request)) if isinstance(found, str) else found
                time.sleep(raw.seconds)
            finally:
                with state.lock:
                    state.under_way -= 1
            content = raw.body.encode()
            self.send_response(raw.status)
            for name, value in {"Content-Type": raw.kind, "Content-Length": str(len(content)), **raw.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that gave up waiting is part of the tests."""

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kind_of(request: dict[str, Any]) -> str:
    """Which prompt a request was made of."""
    system = request["messages"][0]["content"]
    signs = {"explanation": "Say in one short sentence", "detection": "contains a token that", "fuzzing": "marked rightly",
             "simulation": "numbered list", "intruder": "Find the intruder"}  # fmt: skip
    return next((name for name, sign in signs.items() if sign in system), "check")


def texts_of(request: dict[str, Any]) -> list[str]:
    return re.findall(r"^Text \d+: (.*)$", request["messages"][1]["content"], flags=re.MULTILINE)


def verdicts(answers: list[bool]) -> str:
    return json.dumps({f"text_{number}": answer for number, answer in enumerate(answers, 1)})


def understands_words(request: dict[str, Any]) -> str:
    """A reader who is always right about latents that are active on exactly one word, of texts like ``w3w17w4``."""
    kind, user = kind_of(request), request["messages"][1]["content"]
    if kind == "explanation":
        words = set(re.findall(r"w\d+", " ".join(re.findall("⟪(.*?)⟫", user))))
        return json.dumps({"explanation": f"the word {' or '.join(sorted(words))}"})
    if kind == "intruder":
        marked = [set(re.findall(r"w\d+", " ".join(re.findall("⟪(.*?)⟫", text)))) for text in texts_of(request)]
        odd = [
            number
            for number, words in enumerate(marked, 1)
            if all(words.isdisjoint(other) for other in marked if other is not words)
        ]
        return json.dumps({"intruder": odd[0]})
    if kind == "check":
        return '{"intruder": 1}'
    word = re.findall(r"^Explanation: the word (w\d+)$", user, flags=re.MULTILINE)[0]
    if kind == "simulation":
        tokens = re.findall(r"^(\d+): (.*)$", user, flags=re.MULTILINE)
        return json.dumps(
            {"activations": [{"token": int(number), "activation": 10} for number, text in tokens if text == word]}
        )
    if kind == "detection":
        return verdicts([word in re.findall(r"w\d+", text) for text in texts_of(request)])
    marks = [re.findall(r"w\d+", " ".join(re.findall("⟪(.*?)⟫", text))) for text in texts_of(request)]
    return verdicts([set(words) == {word} for words in marks])


def knows_nothing(request: dict[str, Any]) -> str:
    """Valid answers that are the same for every question."""
    always = verdicts([True] * len(texts_of(request)))
    return {
        "explanation": '{"explanation": "something"}',
        "detection": always,
        "fuzzing": always,
        "simulation": '{"activations": []}',
        "intruder": '{"intruder": 1}',
        "check": '{"intruder": 1}',
    }[kind_of(request)]
