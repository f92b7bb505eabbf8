"""A client of a language model behind any endpoint with OpenAI's chat-completions protocol.

Answers are read from the cache where possible. Overloads, errors of the server and lost connections are retried with
exponential backoff; a rejected key or an unknown model ends the run with one sentence. The key comes from the environment
and is used in the request's header only.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from saebench.errors import SaebenchError
from saebench.explaining.llm.answers import Intruder, schema
from saebench.explaining.llm.cache import Answer, AnswerCache, Dialect
from saebench.explaining.llm.endpoint import Endpoint, Prompt, Sampling
from saebench.explaining.llm.limits import Limits, Pacer
from saebench.explaining.llm.local import answering_here

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

NO_KEY = "none"
"""Sent where the environment has no key: local servers do not require one."""


CHECK = Prompt("check", "This checks that the endpoint works.", 'Answer with JSON alone: {"intruder": 1}', Intruder)


@dataclass(frozen=True)
class Reply:
    """The outcome of a question: an answer, from the cache or not, or the problem."""

    answer: Answer | None
    cached: bool = False
    trouble: str | None = None


class ChatClient:
    """Client of one model of one endpoint.

    Args:
        endpoint: the endpoint.
        sampling: how answers are sampled.
        limits: rate limits and retries.
        cache: of answers.
    """

    def __init__(self, endpoint: Endpoint, sampling: Sampling, limits: Limits, cache: AnswerCache) -> None:
        self.endpoint, self.sampling, self.limits, self.cache = endpoint, sampling, limits, cache
        self.retries = 0
        self._pacer = Pacer(limits)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._unanswered_in_a_row = 0
        self._dialect = cache.dialect(endpoint.identity)

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        key = os.environ.get(self.endpoint.key_variable) or NO_KEY
        return OpenAI(api_key=key, base_url=self.endpoint.url, timeout=self.limits.timeout, max_retries=0)

    @property
    def known(self) -> bool:
        """Whether an earlier run has checked this endpoint, so that answers may be in the cache."""
        return self._dialect is not None or answering_here(self.endpoint.url) is not None

    def cached(self, prompt: Prompt) -> Answer | None:
        """The answer, if it is in the cache."""
        return self.cache.get(self._question(prompt)) if self._dialect is not None else None

    def check(self) -> None:
        """Ask one short question, to check that the endpoint works and which features it supports.

        Raises:
            SaebenchError: nothing answers, the key is rejected, the model is unknown, or it is another type of server.
        """
        if answering_here(self.endpoint.url) is not None:
            return
        from openai import APIConnectionError, APITimeoutError

        dialect: Dialect | None = self._dialect or Dialect()
        while dialect is not None:
            self._dialect = dialect
            try:
                self._attempts(CHECK, retry_connection=False)
            except APITimeoutError as error:
                raise self._error(f"did not answer within {self.limits.timeout:g} seconds: is it overloaded?") from error
            except APIConnectionError as error:
                raise SaebenchError(
                    f"Nothing answers at {self.endpoint.url}: start the server, or correct {self.endpoint.option('url')}."
                ) from error
            except _Refused as refused:
                dialect = _simpler(dialect, refused.text)
                if dialect is None:
                    raise self._error(f"rejects a simple question ({refused.status}): {refused.text}") from refused
            except _NotChat as error:
                raise self._error(
                    "answers, but not as a chat-completions server: is the address right (often it ends in /v1)?"
                ) from error
            except _Failed as failed:
                raise self._error(f"does not work: {failed}.") from failed
            else:
                self.cache.put_dialect(self.endpoint.identity, dialect)
                return

    def ask(self, prompt: Prompt) -> Reply:
        """Answer one question, from the cache where possible.

        Raises:
            SaebenchError: the endpoint rejects the key or the model, or no longer answers any question.
        """
        here = answering_here(self.endpoint.url)
        if here is not None:
            request = {"model": self.endpoint.model, **self._parameters(prompt)}
            return Reply(Answer(text=here(request), prompt_tokens=0, completion_tokens=0, finish_reason="stop"))
        from openai import APIConnectionError

        question = self._question(prompt)
        known = self.cache.get(question)
        if known is not None:
            return Reply(known, cached=True)
        try:
            answer = self._attempts(prompt, retry_connection=True)
        except _Refused as refused:  # such as a text that is too long, or that a filter blocks
            self._count(answered=True)
            return Reply(None, trouble=f"refused ({refused.status})")
        except (APIConnectionError, _Failed) as failed:
            self._count(answered=False)
            return Reply(None, trouble=str(failed))
        self._count(answered=True)
        self.cache.put(question, answer)
        return Reply(answer)

    def ask_all(self, prompts: Sequence[Prompt], advance: Callable[[float], None] = lambda amount: None) -> list[Reply]:
        """Answer many questions concurrently; the same question only once. ``advance(1)`` is called after each.

        Raises:
            SaebenchError: as ``ask``; earlier answers are in the cache.
        """
        if not self.known:
            self.check()
        different = list(dict.fromkeys(prompts))
        pool = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="saebench-llm")
        futures = {pool.submit(self.ask, prompt): prompt for prompt in different}
        replies = {}
        try:
            for future in as_completed(futures):
                replies[futures[future]] = future.result()
                advance(1)
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()
        return [replies[prompt] for prompt in prompts]

    def _question(self, prompt: Prompt) -> dict[str, Any]:
        """Everything that determines an answer: the key of the cache."""
        return self.endpoint.identity | {"request": self._parameters(prompt)}

    def _parameters(self, prompt: Prompt) -> dict[str, Any]:
        dialect = self._dialect or Dialect()
        parameters: dict[str, Any] = {
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            dialect.limit: self.sampling.max_tokens,
        }
        if dialect.temperature:
            parameters["temperature"] = self.sampling.temperature
        if dialect.seed:
            parameters["seed"] = self.sampling.seed
        if dialect.answer_format == "json_schema":
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema(prompt.form)}
        elif dialect.answer_format == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        return parameters

    def _attempts(self, prompt: Prompt, retry_connection: bool) -> Answer:
        """Ask until there is an answer, attempts are exhausted or the endpoint rejects the question."""
        from openai import APIConnectionError, APIStatusError

        for attempt in range(self.limits.retries + 1):
            headers: Any = {}
            self._wait(self._pacer.reserve(prompt.prompt_tokens + prompt.answer_tokens))
            try:
                return self._once(prompt)
            except APIStatusError as error:
                self._raise_if_final(error)
                headers, trouble = error.response.headers, f"it answered {error.status_code}"
            except APIConnectionError as error:
                if not retry_connection or attempt == self.limits.retries:
                    raise
                trouble = str(error)
            except ValueError as error:  # the body is not JSON, or not an answer
                if isinstance(error, _NotChat) and not retry_connection:
                    raise
                trouble = "its answer was not one of the protocol"
            if attempt == self.limits.retries:
                raise _Failed(f"{trouble}, {attempt + 1} times")
            seconds = self.limits.wait_before(attempt + 1, headers)
            with self._lock:
                self.retries += 1
            if trouble.endswith("429"):
                self._pacer.pause(seconds)
            self._wait(seconds)
        raise AssertionError("unreachable")

    def _once(self, prompt: Prompt) -> Answer:
        completion: Any = self._client.chat.completions.create(model=self.endpoint.model, **self._parameters(prompt))
        choices = getattr(completion, "choices", None)
        first = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(first, "message", None)
        if message is None:
            raise _NotChat("no choices in the answer")
        text, usage = getattr(message, "content", None), getattr(completion, "usage", None)
        reason = getattr(first, "finish_reason", None)
        return Answer(
            text=text.encode("utf-8", "replace").decode() if isinstance(text, str) else "",  # no lone surrogates
            prompt_tokens=_whole(getattr(usage, "prompt_tokens", None)),
            completion_tokens=_whole(getattr(usage, "completion_tokens", None)),
            finish_reason=reason if isinstance(reason, str) else None,
        )

    def _raise_if_final(self, error: APIStatusError) -> None:
        """Raise errors that a retry cannot resolve."""
        status, option = error.status_code, self.endpoint.option
        if status in (401, 403):
            name = self.endpoint.key_variable
            raise self._error(f"rejects the key ({status}): set the environment variable {name} to a valid one.")
        if status == 404:
            raise self._error(
                f"has no model {self.endpoint.model!r} or address (404): correct {option('model')} or {option('url')}."
            )
        if getattr(error, "code", None) == "insufficient_quota":
            raise self._error("says that the account has no credit left (insufficient_quota).")
        if status not in (408, 409, 429) and status < 500:
            raise _Refused(status, _first_words(error))

    def _count(self, answered: bool) -> None:
        with self._lock:
            self._unanswered_in_a_row = 0 if answered else self._unanswered_in_a_row + 1
            if self._unanswered_in_a_row >= self.limits.give_up_after:
                raise self._error(
                    f"no longer answers ({self._unanswered_in_a_row} questions in a row): its answers are cached; "
                    "repeat the command to resume."
                )

    def _wait(self, seconds: float) -> None:
        if (seconds > 0 and self._stop.wait(seconds)) or self._stop.is_set():
            raise _Failed("the run was stopped")

    def _error(self, what: str) -> SaebenchError:
        return SaebenchError(f"The endpoint {self.endpoint.url} {what}")


class _Refused(Exception):
    """The endpoint rejects this question (a status such as 400)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _NotChat(ValueError):
    """The endpoint's answer is not a chat completion."""


class _Failed(Exception):
    """No answer after all attempts."""


def _simpler(dialect: Dialect, complaint: str) -> Dialect | None:
    """The dialect without the feature that the endpoint rejects, or None where no optional feature is left.

    Endpoints differ in which optional parameters they accept; the error message usually names the parameter.
    """
    words = complaint.lower()
    if "max_tokens" in words and dialect.limit == "max_tokens":
        return dialect.model_copy(update={"limit": "max_completion_tokens"})
    if "temperature" in words and dialect.temperature:
        return dialect.model_copy(update={"temperature": False})
    if "seed" in words and dialect.seed:
        return dialect.model_copy(update={"seed": False})
    formats = {"json_schema": "json_object", "json_object": "text"}
    if dialect.answer_format in formats:
        return dialect.model_copy(update={"answer_format": formats[dialect.answer_format]})
    return None


def _first_words(error: APIStatusError) -> str:
    """The endpoint's error message, shortened to a line."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else body
    text = message if isinstance(message, str) else json.dumps(body, default=str)
    return " ".join(text.split())[:300]


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
