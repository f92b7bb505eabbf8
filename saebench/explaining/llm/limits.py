"""Rate limits and retries for an endpoint. They change neither the questions nor any number of a result."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from saebench.errors import SaebenchError, check_at_least


@dataclass(frozen=True)
class Limits:
    """Rate limits and retries for an endpoint.

    Attributes:
        concurrency: questions in flight at a time.
        requests_per_minute: 0 for no limit.
        tokens_per_minute: of prompts, estimated, and the answers expected; 0 for no limit.
        timeout: seconds until a question counts as not answered.
        retries: further attempts at a question after an overload, an error of the server or a lost connection.
        first_wait: seconds before the first of them; doubled each time, up to ``longest_wait``.
        longest_wait: see ``first_wait``; the server's ``Retry-After`` is respected up to this as well.
        give_up_after: unanswered questions in a row after which the run stops.
    """

    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    timeout: float = 120.0
    retries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    give_up_after: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, dict.fromkeys(vars(self), 0) | {"concurrency": 1, "give_up_after": 1})
        if self.timeout == 0:
            raise SaebenchError("timeout is 0; it must be more than 0.")

    def wait_before(self, attempt: int, headers: Mapping[str, str]) -> float:
        """Seconds to wait before attempt ``attempt`` (1 is the first repetition).

        Doubles with each attempt, less a random part of up to one half, so that workers do not retry at the same time.
        """
        backoff = min(self.first_wait * 2.0 ** (attempt - 1), self.longest_wait)
        jittered = backoff * random.uniform(0.5, 1.0)
        return min(max(jittered, _retry_after(headers)), self.longest_wait)


def _retry_after(headers: Mapping[str, str]) -> float:
    """The server's ``Retry-After`` in seconds; 0 where it is absent or a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return 0.0


class Pacer:
    """Spaces questions evenly, over all threads, so that neither rate is exceeded.

    Args:
        limits: the rates.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, tokens: float) -> float:
        """Reserve a question of ``tokens``; returns the seconds until it may be sent."""
        of = self._limits
        requests = 60.0 / of.requests_per_minute if of.requests_per_minute else 0.0
        volume = 60.0 * tokens / of.tokens_per_minute if of.tokens_per_minute else 0.0
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + max(requests, volume)
            return start - now

    def pause(self, seconds: float) -> None:
        """Pause all threads for some seconds: the endpoint reported an overload."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)
