"""How long servers ask us to wait, in every spelling that is known of one."""

from __future__ import annotations

import email.utils
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.retry_after import wished_wait

NOW = 1_800_000_000.0
RATE = {"x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "5s"}

ANTHROPIC = {
    "anthropic-ratelimit-tokens-remaining": "0",
    "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:21Z",
}
HEADERS = ["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit", "x-ratelimit-reset-tokens"]
KEYS = ["error", "metadata", "headers", "details", "retry_after", "retryDelay"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": email.utils.formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": email.utils.formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": str(int(NOW) + 9)}, 9.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "99999999"}, 99_999_999.0),
        ({"retry-after": "Sun, 99 Nov 9999 00:00:00 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"X-RateLimit-Reset": str(int((NOW + 12) * 1000))}, 12.0),
        ({"x-ratelimit-reset": str(int(NOW + 12))}, 12.0),
        ({"x-ratelimit-reset": str(int(NOW - 12))}, 0.0),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"ratelimit-reset": "3"}, 3.0),
        ({"ratelimit": "limit=100, remaining=0, reset=5"}, 5.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        (RATE | {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, 62.5),
        (RATE, None),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:21Z"},
            21.0,
        ),
        ({}, None),
    ],
)
def test_in_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert wished_wait(429, headers, None, "", NOW) == seconds


@pytest.mark.parametrize(
    ("payload", "words", "seconds"),
    [
        (None, "Rate limit reached for m. Please try again in 7m12.5s. Visit https://x", 432.5),
        (None, "Limit 3, Used 3. Please try again in 20s.", 20.0),
        (None, "Please try again in 250ms.", 0.25),
        (None, "Too many requests, retry after 2 minutes and be patient", 120.0),
        (None, "try again in 1 hour 30 minutes", 5_400.0),
        (None, "Please try again in a while", None),
        ([{"error": {"details": [{"@type": "Help"}, {"@type": "RetryInfo", "retryDelay": "34.5s"}]}}], "", 34.5),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Reset": str(int((NOW + 40) * 1000))}}}}, "", 40.0),
        ({"error": {"message": "slow", "retry_after": 4}}, "", 4.0),
        ({"detail": "slow", "retry_after_seconds": 1.5}, "", 1.5),
        ({"error": {"retry_after": True, "details": [None, 3]}}, "", None),
    ],
)
def test_in_the_body(payload: Any, words: str, seconds: float | None) -> None:
    assert wished_wait(429, {}, payload, words, NOW) == seconds


def test_the_limits_beside_another_error_are_no_wish() -> None:
    limits = {"x-ratelimit-reset": "60", "ratelimit": "limit=1, remaining=0, reset=60"}
    assert wished_wait(500, limits, {"error": {"retry_after": 9}}, "try again in 9s", NOW) is None
    assert wished_wait(503, {"retry-after": "9"} | limits, None, "", NOW) == 9.0


@given(
    st.dictionaries(
        st.sampled_from(
            ["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit", "x-ratelimit-reset-tokens"]
        ),
        st.text(max_size=40) | st.from_regex(r"-?\d{0,20}(\.\d*)?(ms|s|m|h)?", fullmatch=True),
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
        max_leaves=12,
    ),
    st.text(max_size=60),
)
def test_whatever_a_server_sends_is_a_wait_or_none(headers: dict[str, str], payload: Any, words: str) -> None:
    wait = wished_wait(429, headers, payload, words, NOW)
    assert wait is None or 0 <= wait < 1e17
