"""Scenarios: the server answers with a status, in every form of "wait" and of "no"."""

from __future__ import annotations

import email.utils
import time
from typing import Any

from tests.faults.provider_runs import Fault
from tests.model_server import Reply, Scripted, chunk, http, raw, sse, stream, text, tool_call

SLOW = {"error": {"message": "slow down", "type": "rate_limit_error"}}
SHORT = {"Retry-After": "0.02"}
"""What makes a scenario quick: a wait of the server's own, not one of ours made shorter."""
HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


BRIEF, OWN = (0.0, 0.05), (0.35, 0.65)
"""Between which seconds a wait lies that the server has wished for, and one that it left to us."""


def limited(name: str, body: Any = SLOW, headers: dict[str, str] | None = None, **how: Any) -> Fault:
    """A 429 that passes, after a wait that the server wished for."""
    how = {"waits": BRIEF} | how
    return Fault(name, (http(429, body, headers),), retries=1, words="slow down" if body is SLOW else "", **how)


def soon(_: Any) -> Reply:
    """A date that is at most a second away; only at the time of the answer can that be told."""
    return http(429, SLOW, {"Retry-After": email.utils.formatdate(time.time() + 1, usegmt=True)})


def at_reset(_: Any) -> Reply:
    return http(429, SLOW, {"X-RateLimit-Reset": str(int(time.time() * 1000) + 1000)})


LIMITS: tuple[Fault, ...] = (
    limited("429 with seconds", headers=SHORT, whole=True),
    limited("429 with zero", headers={"Retry-After": "0"}, waits=OWN),
    limited("429 with milliseconds", headers={"retry-after-ms": "15", "Retry-After": "900"}),
    limited("429 with nothing", body="", waits=OWN),
    limited("429 with a word", headers={"Retry-After": "soon"}, waits=OWN),
    limited("429 with a negative number", headers={"Retry-After": "-5"}, waits=OWN),
    limited("429 with a date in the past", headers={"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, waits=OWN),
    Fault("429 with a date", (soon,), retries=1, waits=(0.0, 1.0)),
    Fault("429 with the moment of the reset", (at_reset,), retries=1, waits=(0.0, 1.0)),
    limited("429 with a reset in the past", headers={"X-RateLimit-Reset": "1700000000000"}, waits=OWN),
    limited(
        "429 with the limit of tokens",
        headers={
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "25ms",
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-reset-requests": "6m0s",
        },
    ),
    limited("429 in words", {"error": {"message": "Rate limit reached. Please try again in 20ms. See the docs."}}),
    limited(
        "429 in Google's details",
        [{"error": {"code": 429, "message": "Quota", "details": [{"@type": "RetryInfo", "retryDelay": "0.02s"}]}}],
    ),
    limited(
        "429 of OpenRouter's provider",
        {
            "error": {
                "code": 429,
                "message": "Provider returned error",
                "metadata": {"headers": {"retry-after": "0.02"}},
            }
        },
    ),
    Fault("429 three times", (http(429, SLOW, SHORT),) * 3, retries=3),
    Fault(
        "429 inside the stream",
        (stream(text("I beg"), chunk(error={"code": 429, "message": "slow down, try again in 20ms"})),),
        retries=1,
        waits=BRIEF,
        void=True,
    ),
    Fault(
        "429 with an absurd wish",
        (http(429, SLOW, {"Retry-After": "99999999"}),),
        exit_code=3,
        words="it asks to wait 99999999 s",
    ),
    Fault("429 beyond the budget", (http(429, SLOW, {"Retry-After": "21"}),), exit_code=3, words="slow down"),
    Fault(
        "429 for ever",
        (),
        always=http(429, SLOW, {"Retry-After": "1"}),
        retries=2,
        requests=3,
        waits=(1.0, 1.0),
        exit_code=3,
        words="gave up after 3 attempts",
        settings={"LAGUNA_RETRY_BUDGET": "2.8"},
    ),
    Fault(
        "429 where there is no budget",
        (http(429, SLOW, SHORT),),
        exit_code=3,
        words="it asks to wait",
        settings={"LAGUNA_RETRY_BUDGET": "0"},
    ),
    Fault(
        "429 for the day",
        (http(429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}),),
        exit_code=3,
        words="per-day",
        whole=True,
    ),
    Fault(
        "429 for want of credit",
        (http(429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}),),
        exit_code=3,
        words="current quota",
    ),
    Fault(
        "429 for one request too large",
        (http(429, {"error": {"message": "Request too large for m on tokens per min: Limit 10, Requested 12"}}),),
        exit_code=3,
        words="does not fit",
    ),
)


def passing(status: int, body: Any = "try later", headers: dict[str, str] | None = None) -> Fault:
    return Fault(
        f"status {status} once", (http(status, body, headers or SHORT),), retries=1, waits=BRIEF, words=str(status)
    )


def final(status: int, words: str, body: Any = None, headers: dict[str, str] | None = None, **how: Any) -> Fault:
    body = {"error": {"message": words}} if body is None else body
    return Fault(f"status {status}", (http(status, body, headers),), **({"exit_code": 3, "words": words} | how))


STATUSES: tuple[Fault, ...] = (
    *(passing(status) for status in (408, 409, 425, 500, 503, 504, 529)),
    passing(502, HTML),
    passing(520, HTML),
    Fault(
        "status 503 for ever",
        (),
        always=http(503, {"error": {"message": "Loading model"}}, {"Retry-After": "1"}),
        retries=1,
        requests=2,
        waits=(1.0, 1.0),
        exit_code=3,
        words="Loading model [gave up after 2 attempts",
        settings={"LAGUNA_RETRY_BUDGET": "1.8"},
        whole=True,
    ),
    Fault(
        "status 500 with the limits of every answer",
        (http(500, "oops", {"x-ratelimit-reset": "600", "x-ratelimit-remaining": "5"}),),
        retries=1,
        waits=OWN,
        words="oops",
    ),
    Fault(
        "status 503 that says not to try again",
        (http(503, "gone", {"x-should-retry": "false"}),),
        exit_code=3,
        words="gone",
    ),
    final(400, "tools: field is malformed"),
    final(401, "bad key", whole=True),
    final(402, "Insufficient credits"),
    final(403, "no rights"),
    final(404, "no such model"),
    final(405, "not allowed"),
    final(422, "field required", {"detail": [{"loc": ["body"], "msg": "field required"}]}),
    final(451, "not in this country"),
    final(501, "not here"),
    final(505, "HTTP version"),
    final(307, "redirects to https://elsewhere.invalid/v1", "", {"Location": "https://elsewhere.invalid/v1"}),
)

FILTERS: tuple[Fault, ...] = (
    Fault(
        "a filtered answer",
        (stream(text("How to"), finish="content_filter"),),
        exit_code=4,
        words="content_filter",
        whole=True,
    ),
    Fault(
        "a filtered answer with a whole call",
        (stream(tool_call("write", {"path": "half.txt", "content": ""}), finish="content_filter"),),
        exit_code=4,
        words="content_filter",
    ),
    Fault(
        "a filtered prompt as Azure says it",
        (
            http(
                400,
                {"error": {"code": "content_filter", "message": "triggering Azure OpenAI's content management policy"}},
            ),
        ),
        exit_code=4,
        words="content filter refuses",
    ),
    Fault(
        "a flagged prompt as OpenRouter says it",
        (http(403, {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["x"]}}}),),
        exit_code=4,
        words="was flagged",
    ),
    Fault("an answer that Google calls unsafe", (stream(finish="SAFETY"),), exit_code=4, words="content_filter"),
    Fault(
        "a refusal",
        (stream(raw(sse({"choices": [{"delta": {"refusal": "I will not."}, "finish_reason": None}]}))),),
        exit_code=4,
        words="refusal",
    ),
)


CONTEXT_WORDS: dict[str, Scripted] = {
    "OpenAI": http(
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens. However, you requested 9000.",
                "code": "context_length_exceeded",
            }
        },
    ),
    "OpenRouter": http(
        400,
        {
            "error": {
                "code": 400,
                "message": "This endpoint's maximum context length is 131040 tokens. You requested 140000.",
                "metadata": {"error_type": "context_length_exceeded"},
            }
        },
    ),
    "OpenRouter in the stream": stream(
        chunk(error={"code": "context_length_exceeded", "message": "too long"}, choices=[{"finish_reason": "error"}])
    ),
    "vLLM": http(
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 9) is longer than the maximum model length of 8.",
            "code": 400,
        },
    ),
    "SGLang": http(
        400, {"object": "error", "message": "The input (9000 tokens) is longer than the model's context length (4096)."}
    ),
    "Ollama": http(400, {"error": "prompt too long; exceeded max context length by 23 tokens"}),
    "Ollama's engine": http(500, {"error": "the input length exceeds the context length"}),
    "llama.cpp": http(
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
            }
        },
    ),
    "poolside": http(
        400,
        {"type": "about:blank", "title": "Bad Request", "detail": "input exceeds the context window of laguna-xs-2.1"},
        {"Content-Type": "application/problem+json"},
    ),
    "Anthropic": http(
        400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}
    ),
    "TGI": http(
        422,
        {
            "error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
            "error_type": "validation",
        },
    ),
    "LM Studio": http(
        400,
        {"error": "Trying to keep the first 9000 tokens when context the overflows. The model is loaded with 4096"},
    ),
    "Copilot": http(400, {"error": {"message": "prompt token count of 130000 exceeds the limit of 128000"}}),
    "a proxy": http(413, HTML.replace("502 Bad Gateway", "413 Request Entity Too Large")),
}
