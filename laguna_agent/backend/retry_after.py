"""How long a server asks us to wait, wherever it says so: in headers, in an error object, in a sentence.

Knows the spellings of providers and no clock but the one it is given; whether the wish is granted is `retry`'s.

    Retry-After: 7 | 0.5 | Sun, 06 Nov 1994 08:49:37 GMT      RFC 9110 10.2.3; also, wrongly, seconds since 1970
    retry-after-ms: 250                                       OpenAI, Azure
    X-RateLimit-Reset: 12 | 1767225600 | 1767225600000        seconds from now, or seconds or milliseconds since 1970
    x-ratelimit-reset-tokens: 6m0s | 120ms                    OpenAI, Groq; beside x-ratelimit-remaining-tokens: 0
    anthropic-ratelimit-requests-reset: 2026-01-31T14:25:01Z
    RateLimit: limit=100, remaining=0, reset=5                IETF drafts
    {"error": {"details": [{"retryDelay": "34s"}]}}           Google
    {"error": {"metadata": {"headers": {...}}}}               OpenRouter hands on its provider's
    "Rate limit reached ... Please try again in 7m12.5s."     OpenAI, Groq and others
"""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

LIMITED = frozenset({429, 503, 529})
"""The statuses for which a limit's reset, or a sentence about it, says when to come back. Servers put the headers of
their limits on every answer, so with a 500 they mean nothing."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART = r"(\d{1,9}(?:\.\d{1,12})?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|h|days?|d)(?![a-z])"
_DURATION = re.compile(rf"(?:{_PART}[\s,]*)+", re.IGNORECASE)
_SENTENCE = re.compile(rf"(?:try again|retry)\s+(?:in|after)\s+((?:{_PART}[\s,]*)+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,9})?")
_RESET = re.compile(r"\b(?:reset|t)\s*=\s*(\d{1,12})\b")
_NAMED_WISHES = ("retry_after", "retry_after_seconds", "retryAfter", "retryDelay")
_AN_EPOCH = 1_000_000_000
"""A number of seconds as large as this is a date: nobody asks to wait for thirty years."""


def wished_wait(
    status: int, headers: Mapping[str, str], payload: Any, words: str, now: float | None = None
) -> float | None:
    """Seconds from `now` (Unix time) until the server wants to be asked again; None where it does not say.

    `payload` is the error body as JSON, `words` the sentence in it. Never negative, and not bounded: what is absurd is
    for the caller to refuse.
    """
    now = time.time() if now is None else now
    headers = {name.lower(): value for name, value in headers.items()}
    wish = read_retry_after(headers, now)
    if wish is not None or status not in LIMITED:
        return wish
    for found in (*_in_payload(payload, now), _in_words(words), _reset(headers, now)):
        if found is not None:
            return found
    return None


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """What `retry-after-ms` or `Retry-After` say, in seconds; header names in lower case."""
    milliseconds, wished = headers.get("retry-after-ms", "").strip(), headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1_000
    if not wished:
        return None
    if _NUMBER.fullmatch(wished):
        return _from_number(float(wished), now)
    return _from_date(wished, now)


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """When the limit that was hit is lifted. Of several limits those count that have nothing left."""
    spent = [
        _moment(headers[name], now)
        for name in headers
        if name.startswith(("x-ratelimit-reset-", "anthropic-ratelimit-"))
        and "reset" in name
        and headers.get(name.replace("reset", "remaining"), "").strip() == "0"
    ]
    known = [moment for moment in spent if moment is not None]
    if known:
        return max(known)
    for name in ("x-ratelimit-reset", "ratelimit-reset"):
        if (moment := _moment(headers.get(name, ""), now)) is not None:
            return moment
    combined = _RESET.search(headers.get("ratelimit", ""))
    return float(combined[1]) if combined else None


def _moment(text: str, now: float) -> float | None:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _from_number(float(text), now)
    if _DURATION.fullmatch(text):
        return _seconds(text)
    return _from_date(text, now)


def _from_number(number: float, now: float) -> float:
    if number < _AN_EPOCH:
        return number
    return max(0.0, (number / 1_000 if number >= _AN_EPOCH * 100 else number) - now)


def _from_date(text: str, now: float) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        try:
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError):
            return None
    return max(0.0, moment - now)


def _seconds(text: str) -> float:
    found = [(float(number), unit.lower()) for number, unit in re.findall(_PART, text, re.IGNORECASE)]
    return sum(n * (0.001 if unit.startswith(("ms", "mil")) else _UNITS[unit[0]]) for n, unit in found)


def _in_words(words: str) -> float | None:
    found = _SENTENCE.search(words)
    return _seconds(found[1]) if found else None


def _in_payload(payload: Any, now: float) -> Iterator[float | None]:
    """The wishes of an error object and of what it holds."""
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    if not isinstance(payload, dict):
        return
    for name in _NAMED_WISHES:
        value = payload.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
            yield _from_number(float(value), now)
        elif isinstance(value, str):
            yield _moment(value, now)
    headers = payload.get("headers")
    if isinstance(headers, dict):
        told = {str(name).lower(): str(value) for name, value in headers.items()}
        wish = read_retry_after(told, now)
        yield wish if wish is not None else _reset(told, now)
    details = payload.get("details")
    for inner in (payload.get("error"), payload.get("metadata"), *(details if isinstance(details, list) else ())):
        if isinstance(inner, dict):
            yield from _in_payload(inner, now)
