"""When to ask again, and how long to wait first. Knows no HTTP library and no clock of its own."""

from __future__ import annotations

import random

import msgspec

from laguna_agent.errors import ProviderError

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class RetryPolicy(msgspec.Struct, frozen=True):
    """How patient to be.

    `budget` is how many seconds a request may spend in all, from its first failure on, on waiting and on silent
    attempts; `unreachable` how many while no connection comes about. Waits double from `first` to `longest`; a server's
    own wish is kept to the second, or not begun where the budget has no room for it. `broken` is how many answers may
    break off after they had begun: each costs tokens.
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
        # How long a first attempt may be silent is the timers' business: where that alone took more than the budget,
        # a stalled stream would never be asked for again.
        self._spent += silence if self.attempts > 1 or not reached else 0.0
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
