"""When to ask again, and how long to wait first. Knows no HTTP library and no clock of its own."""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Mapping

import msgspec

from laguna_agent.errors import ProviderError

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


def read_retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, `Retry-After` in seconds or as a date (RFC 9110 10.2.3), else
    `X-RateLimit-Reset` (seconds or milliseconds since 1970). None where it does not say."""
    now = time.time() if now is None else now
    milliseconds, wished = headers.get("retry-after-ms", ""), headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d+)?", milliseconds):
        return float(milliseconds) / 1000
    if re.fullmatch(r"\d{1,12}(\.\d+)?", wished):
        return float(wished)
    if wished:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(wished).timestamp() - now)
        except (ValueError, OverflowError):
            pass
    reset = headers.get("x-ratelimit-reset", "").strip()
    if re.fullmatch(r"\d{10,13}", reset):
        moment = int(reset) / (1000 if len(reset) > 11 else 1)
        return max(0.0, moment - now)
    return None


class RetryPolicy(msgspec.Struct, frozen=True):
    """How patient to be.

    `budget` is how many seconds a request may spend in all on waiting and on silent attempts, `unreachable` how many
    while no connection comes about. Waits double from `first` to `longest`. `broken` is how many answers may break off
    after they had begun: each costs tokens.
    """

    budget: float = 120.0
    unreachable: float = 4.0
    first: float = 0.5
    longest: float = 30.0
    broken: int = 3


class Retries:
    """The retries of one request."""

    def __init__(self, policy: RetryPolicy, chance: random.Random | None = None) -> None:
        self._policy = policy
        self._chance = chance or random.Random()
        self._spent = 0.0
        self._broken = 0
        self.attempts = 1

    def wait_after(self, error: ProviderError, silence: float, *, begun: bool, reached: bool = True) -> float | None:
        """Seconds to wait before the next attempt, None to give up.

        `silence` is for how long the failed attempt had given nothing, `begun` whether it had given anything before,
        `reached` whether a connection had come about.
        """
        self._spent += silence
        self._broken += begun
        backoff = min(self._policy.longest, self._policy.first * 2.0 ** (self.attempts - 1))
        wait = backoff * (0.75 + 0.5 * self._chance.random())
        if error.retry_after is not None:
            wait = max(error.retry_after, 0.0) or wait
        budget = self._policy.budget if reached else min(self._policy.budget, self._policy.unreachable)
        if not error.retryable or self._broken > self._policy.broken or self._spent + wait > budget:
            return None
        self._spent += wait
        self.attempts += 1
        return wait
