"""How fast and how stubbornly an endpoint is asked. None of this changes what is asked, or any number of a result."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from saebench.errors import SaebenchError


@dataclass(frozen=True)
class Limits:
    """Limits that an endpoint is asked within.

    Attributes:
        concurrency: questions under way at a time.
        requests_per_minute: 0 for no limit.
        tokens_per_minute: of prompts, estimated, and the answers expected; 0 for no limit.
        timeout: seconds until a question counts as not answered.
        retries: further attempts at a question after an overload, an error of the server or a lost connection.
        first_wait: seconds before the first of them; doubled each time, up to ``longest_wait``.
        longest_wait: see ``first_wait``; what the server asks for in ``Retry-After`` is heeded up to this as well.
        give_up_after: questions in a row that stay without an answer, until the run stops.
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
        least = {"concurrency": 1, "give_up_after": 1}
        for name, value in vars(self).items():
            if not value >= least.get(name, 0) or (name == "timeout" and value == 0):
                raise SaebenchError(f"{name} is {value}; it must be at least {least.get(name, 0)}.")

    def wait_before(self, attempt: int, headers: Mapping[str, str]) -> float:
        """Seconds to wait before attempt ``attempt`` (1 is the first repetition).

        Doubles with each attempt, up to half of it taken off at random so that workers do not return in step.
        """
        backoff = min(self.first_wait * 2.0 ** (attempt - 1), self.longest_wait)
        jittered = backoff * random.uniform(0.5, 1.0)
        return min(max(jittered, _retry_after(headers)), self.longest_wait)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to be left alone; 0 where it does not say, or names a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return 0.0


class Pacer:
    """Spaces questions out evenly, over all threads, so that neither rate is exceeded.

    Args:
        limits: the rates.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, tokens: float) -> float:
        """Seconds until a question of ``tokens`` may go out; its share of the rates is taken from then on."""
        of = self._limits
        requests = 60.0 / of.requests_per_minute if of.requests_per_minute else 0.0
        volume = 60.0 * tokens / of.tokens_per_minute if of.tokens_per_minute else 0.0
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + max(requests, volume)
            return start - now

    def pause(self, seconds: float) -> None:
        """Let nobody ask for some seconds: the endpoint said that it is overloaded."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)
