"""When to ask again: the backoff, the budgets."""

from __future__ import annotations

import random

from laguna_agent.backend.retry import Retries, RetryPolicy
from laguna_agent.errors import ProviderError, ProviderUnavailable


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


def test_silence_counts_against_the_budget_once_the_server_is_known_to_fail() -> None:
    assert len(waits(PASSING, RetryPolicy(budget=120), silence=90)) == 2
    assert len(waits(PASSING, RetryPolicy(budget=120), silence=300)) == 1
    assert waits(PASSING, RetryPolicy(budget=0), silence=300) == []


def test_a_name_that_takes_long_not_to_be_found_is_not_looked_for_again() -> None:
    assert waits(PASSING, RetryPolicy(), silence=5, reached=False) == []


def test_a_servers_wish_is_kept_or_not_begun() -> None:
    assert waits(ProviderUnavailable("x", retryable=True, retry_after=25), RetryPolicy(budget=60)) == [25, 25]
    assert waits(ProviderUnavailable("x", retryable=True, retry_after=61), RetryPolicy(budget=60)) == []


def test_a_wish_of_zero_is_no_licence_to_hammer() -> None:
    assert len(waits(ProviderUnavailable("x", retryable=True, retry_after=0), RetryPolicy(budget=10))) < 8


def test_where_nobody_answers_and_where_answers_break_off() -> None:
    assert sum(waits(PASSING, RetryPolicy(), reached=False)) <= 4
    assert len(waits(PASSING, RetryPolicy(), begun=True)) == 3
    assert waits(ProviderUnavailable("x"), RetryPolicy()) == []
