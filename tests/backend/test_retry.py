"""When to ask again: the wishes of servers, the backoff, the budgets."""

from __future__ import annotations

import email.utils
import random

import pytest

from laguna_agent.backend.retry import Retries, RetryPolicy, read_retry_after
from laguna_agent.errors import ProviderError, ProviderUnavailable

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": email.utils.formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": email.utils.formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "Sun, 99 Nov 9999 00:00:00 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"x-ratelimit-reset": str(int((NOW + 12) * 1000))}, 12.0),
        ({"x-ratelimit-reset": str(int(NOW + 12))}, 12.0),
        ({"x-ratelimit-reset": "12"}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers, NOW) == seconds


def waits(error: ProviderError, policy: RetryPolicy, silence: float = 0.0, **how: bool) -> list[float]:
    retries, got = Retries(policy, random.Random(1)), []
    while (wait := retries.wait_after(error, silence, **({"begun": False} | how))) is not None:
        got.append(wait)
    assert retries.attempts == len(got) + 1
    return got


PASSING = ProviderUnavailable("x", retryable=True)


def test_waits_double_up_to_the_longest_and_stay_within_the_budget() -> None:
    got = waits(PASSING, RetryPolicy(budget=60, first=1, longest=8))
    bases = [1, 2, 4, 8, 8, 8]
    assert len(got) >= len(bases)
    assert all(0.75 * base <= wait <= 1.25 * base for base, wait in zip(bases, got, strict=False))
    assert sum(got) <= 60


def test_silence_counts_against_the_budget() -> None:
    assert len(waits(PASSING, RetryPolicy(budget=120), silence=90)) == 1


def test_a_servers_wish_is_kept_or_not_begun() -> None:
    assert waits(ProviderUnavailable("x", retryable=True, retry_after=25), RetryPolicy(budget=60)) == [25, 25]
    assert waits(ProviderUnavailable("x", retryable=True, retry_after=61), RetryPolicy(budget=60)) == []


def test_a_wish_of_zero_is_no_licence_to_hammer() -> None:
    assert len(waits(ProviderUnavailable("x", retryable=True, retry_after=0), RetryPolicy(budget=10))) < 8


def test_where_nobody_answers_and_where_answers_break_off() -> None:
    assert sum(waits(PASSING, RetryPolicy(), reached=False)) <= 4
    assert len(waits(PASSING, RetryPolicy(), begun=True)) == 3
    assert waits(ProviderUnavailable("x"), RetryPolicy()) == []
