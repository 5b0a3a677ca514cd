"""The HTTP backend against a real server on loopback that misbehaves in every way servers do."""

from __future__ import annotations

import email.utils
import json
import re
import socket
import time
from typing import Any

import anyio
import msgspec
import pytest

from laguna_agent.backend.base import Finished, RetryDelta, TextDelta
from laguna_agent.backend.openai_http import GATHERING, OpenAIBackend
from laguna_agent.backend.retry import RetryPolicy
from laguna_agent.config import Settings
from laguna_agent.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
)
from laguna_agent.messages import text_message
from tests.backend.asking import KEY, QUICK, REQUEST, deltas_of, error_of, reply_of
from tests.model_server import (
    ModelServer,
    chunk,
    completion,
    cut,
    delay,
    http,
    raw,
    reasoning,
    reset,
    sse,
    stall,
    stream,
    text,
    tool_call,
)
from tests.model_server import (
    Reply as Scripted,
)


def test_a_whole_answer_with_its_key_and_its_bytes(model_server: ModelServer) -> None:
    model_server.reply([reasoning("hm"), text("Hel🦆lo", pieces=6), tool_call("read", {"path": "a"})])
    reply = reply_of(model_server)
    assert (reply.message.reasoning, reply.message.text, reply.finish) == ("hm", "Hel🦆lo", "tool_calls")
    assert reply.message.tool_calls[0].arguments == {"path": "a"}
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (10, 5)
    (received,) = model_server.requests
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.path == "/v1/chat/completions"
    assert received.body["messages"] == [{"role": "user", "content": "Hi"}]


FINE = stream(text("fine"))
FOREVER = "Sun, 06 Nov 2094 08:49:37 GMT"
PASSING: dict[str, Scripted] = {
    **{f"status {status}": http(status, "try later") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)},
    "429 with seconds": http(429, {"error": {"message": "slow"}}, {"Retry-After": "0.02"}),
    "429 with a date": http(429, "", {"Retry-After": email.utils.formatdate(0, usegmt=True)}),
    "429 with a reset": http(429, "", {"X-RateLimit-Reset": "1700000000000"}),
    "429 with nonsense": http(429, "", {"Retry-After": "soon"}),
    "reset before the first item": stream(reset()),
    "reset after it": stream(text("half"), reset()),
    "end without a finish": stream(text("half"), cut()),
    "[DONE] without a finish": stream(text("half"), finish=""),
    "stall before the first byte of an event": stream(raw(": hi\n\n"), stall()),
    "stall after an event": stream(text("half"), stall()),
    "half a call": stream(tool_call("read", '{"path": "a'), cut()),
    "an event that is no JSON": stream(raw("data: {\n\n")),
    "overload inside the stream": stream(text("half"), chunk(error={"code": 502, "message": "overloaded"}), cut()),
    "an error of no known kind inside": stream(chunk(error={"message": "oops"}), cut()),
    "finish reason error": stream(text("half"), finish="error"),
    "an empty body": http(200, "", {"Content-Type": "text/event-stream"}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_asked_for_again_and_voids_what_came(model_server: ModelServer, fault: str) -> None:
    model_server.reply(PASSING[fault], FINE)
    deltas = deltas_of(model_server)
    (retry,) = [delta for delta in deltas if isinstance(delta, RetryDelta)]
    assert retry.attempt == 1 and retry.reason
    after = deltas[deltas.index(retry) + 1 :]
    assert "".join(d.text for d in after if isinstance(d, TextDelta)) == "fine"
    assert [d for d in deltas if isinstance(d, Finished)] == [Finished("stop")]
    assert [len(c["messages"]) for c in model_server.chats] == [1, 1]


REFUSED: list[tuple[Scripted, type[ProviderError], str]] = [
    (
        http(401, {"error": {"message": f"bad key {KEY}"}}),
        AuthenticationFailed,
        r"\(401\): bad key \[key\]; check TEST_KEY",
    ),
    (http(403, {"detail": "no rights"}), AuthenticationFailed, "no rights"),
    (http(402, {"error": {"message": "Insufficient credits"}}), QuotaExceeded, "Insufficient credits.*add credit"),
    (http(404, {"error": {"message": "model 'm' not found"}}), ModelNotFound, "does not know model m"),
    (http(400, {"error": {"message": "m is not a valid model ID"}}), ModelNotFound, "not a valid model"),
    (http(400, {"error": {"message": "bad\nfield \x1b[31mx"}}), BadRequest, r"bad field \[31mx$"),
    (http(422, {"detail": [{"loc": ["body"], "msg": "field required"}]}), BadRequest, "field required"),
    (http(429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}), QuotaExceeded, "per-day"),
    (http(429, {"error": {"code": "insufficient_quota", "message": "no"}}), QuotaExceeded, "no"),
    (http(501, "not here"), ProviderUnavailable, "not here"),
    (http(307, "", {"Location": "https://elsewhere.invalid/v1"}), BadRequest, "redirects to https://elsewhere"),
    (
        http(
            400,
            {"type": "about:blank", "title": "Bad", "detail": "tokens"},
            {"Content-Type": "application/problem+json"},
        ),
        BadRequest,
        "Bad tokens",
    ),
    (
        http(200, "<html><title>Login</title>", {"Content-Type": "text/html"}),
        ProviderError,
        "an HTML page where a completion was due; check the base URL",
    ),
    (http(200, "hello", {"Content-Type": "text/plain"}), ProviderError, "text/plain where a completion"),
    (http(200, {"error": {"code": 401, "message": "who?"}}), AuthenticationFailed, "who"),
    (stream(chunk(error={"code": "invalid_request_error", "message": "no such field"})), BadRequest, "no such field"),
    (stream(raw(b"event: error\n" + sse({"message": "denied", "code": 403}))), AuthenticationFailed, "denied"),
    (
        http(
            400,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 400,
                    "metadata": {"provider_name": "P", "raw": '{"error": {"message": "top_k?"}}'},
                }
            },
        ),
        BadRequest,
        r"Provider returned error: P top_k\?",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "words"), REFUSED)
def test_what_will_not_pass_ends_at_once_in_one_line(
    model_server: ModelServer, answer: Scripted, kind: type, words: str
) -> None:
    model_server.reply(answer, FINE)
    error = error_of(model_server)
    assert type(error) is kind
    assert re.search(words, str(error)), str(error)
    assert len(model_server.requests) == 1


CONTEXT_WORDS = [
    {
        "error": {
            "message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
            "code": "context_length_exceeded",
        }
    },
    {
        "error": {
            "message": "maximum context length is 131040",
            "code": 400,
            "metadata": {"error_type": "context_length_exceeded"},
        }
    },
    {
        "error": {
            "code": 400,
            "message": "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
        }
    },
    {
        "object": "error",
        "message": "The decoder prompt (length 123) is longer than the maximum model length of 100.",
        "code": 400,
    },
    {"error": {"message": "The input (9000 tokens) is longer than the model's context length (4096 tokens)."}},
    {"error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}},
    {"error": {"message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}},
    [
        {
            "error": {
                "code": 400,
                "message": "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    {
        "object": "error",
        "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
        "32768 maximum context length",
    },
    {"message": "Input is too long for requested model."},
    {"error": "This model's maximum prompt length is 131072 but the request contains 140000 tokens."},
    {"error": {"message": "Please reduce the length of the messages or completion."}},
    {"error": "prompt too long; exceeded max context length by 23 tokens"},
    {
        "error": "Trying to keep the first 9000 tokens when context the overflows. "
        "However, the model is loaded with context length of only 4096"
    },
]


@pytest.mark.parametrize("body", CONTEXT_WORDS)
def test_a_context_error_is_known_in_each_providers_words(model_server: ModelServer, body: Any) -> None:
    model_server.reply(http(400, body))
    assert isinstance(error_of(model_server), ContextTooLong)
    model_server.reply(stream(raw(sse(body | {"code": 400} if isinstance(body, dict) else body[0]))))
    if not isinstance(body, dict) or "error" in body:
        assert isinstance(error_of(model_server), ContextTooLong)


def test_a_body_that_is_too_large_does_not_fit_either(model_server: ModelServer) -> None:
    model_server.reply(http(413, "<html><title>413 Request Entity Too Large</title></html>"))
    error = error_of(model_server)
    assert isinstance(error, ContextTooLong)
    assert "Request Entity Too Large" in str(error)


ODD_BUT_GOOD: dict[str, tuple[Scripted, str]] = {
    "a JSON body for a stream": (completion(text("fine")), "fine"),
    "JSON without a finish reason": (completion(text("fine"), finish=""), "fine"),
    "no [DONE]": (stream(text("fine"), done=False), "fine"),
    "a reset after the finish": (
        stream(raw(sse({"choices": [{"delta": {"content": "fine"}, "finish_reason": "stop"}]})), reset()),
        "fine",
    ),
    "comments and unknown lines": (
        stream(raw(": OPENROUTER PROCESSING\n\n:\nnonsense\nid: 4\n\n"), text("fine")),
        "fine",
    ),
    "carriage returns": (
        stream(raw(sse({"choices": [{"delta": {"content": "fi"}}]}).replace(b"\n", b"\r\n")), text("ne")),
        "fine",
    ),
    "choices that are empty or null": (
        stream(chunk(choices=[]), chunk(choices=None), chunk(choices=[{"delta": None}]), text("fine")),
        "fine",
    ),
    "a stream called text": (
        http(
            200,
            sse({"choices": [{"delta": {"content": "fine"}, "finish_reason": "stop"}]}),
            {"Content-Type": "text/plain"},
        ),
        "fine",
    ),
    "a character in two packets": (
        stream(
            raw(sse({"choices": [{"delta": {"content": "é"}}]})[:-7]),
            delay(0.02),
            raw(sse({"choices": [{"delta": {"content": "é"}}]})[-7:]),
        ),
        "é",
    ),
    "a line of 4 MB": (stream(text("x" * 4_000_000, pieces=1)), "x" * 4_000_000),
}


@pytest.mark.parametrize("form", ODD_BUT_GOOD)
def test_what_is_odd_but_good_is_taken(model_server: ModelServer, form: str) -> None:
    answer, expected = ODD_BUT_GOOD[form]
    model_server.reply(answer)
    reply = reply_of(model_server, stall_timeout=5.0)
    assert (reply.message.text, reply.finish) == (expected, "stop")


def test_a_line_without_end_is_refused(model_server: ModelServer) -> None:
    model_server.reply(stream(*[raw(b"x" * 2**20) for _ in range(17)]))
    assert "more than 16 MB" in str(error_of(model_server, stall_timeout=5.0))


def test_a_finish_without_more_does_not_wait_for_the_end(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laguna_agent.backend.timer.AFTER_FINISH", 0.1)
    model_server.reply(
        stream(raw(sse({"choices": [{"delta": {"content": "fine"}, "finish_reason": "stop"}]})), stall())
    )
    started = time.monotonic()
    assert reply_of(model_server, stall_timeout=30.0).message.text == "fine"
    assert time.monotonic() - started < 5


def test_keepalives_prolong_a_silence_but_not_for_ever(model_server: ModelServer) -> None:
    pings = [part for _ in range(30) for part in (raw(": ping\n\n"), delay(0.1))]
    # A server on this machine may read a prompt for longer than it may fall silent in the middle of an answer.
    model_server.reply(stream(*pings[:30], text("fine")), stream(text("half", pieces=1), *pings))
    assert reply_of(model_server, stall_timeout=0.3).message.text == "fine"
    started = time.monotonic()
    error = error_of(model_server, stall_timeout=0.3, keep_alive_timeout=1.0, policy=RetryPolicy(budget=0.1))
    assert "stalled: nothing new for 1 s" in str(error)
    assert 0.9 < time.monotonic() - started < 2.5


def test_a_server_that_never_answers(model_server: ModelServer) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        error = error_of(url, stall_timeout=0.03, policy=RetryPolicy(budget=0.1))
    assert "no answer in time" in str(error)


def test_a_fast_stream_is_not_slowed_down(model_server: ModelServer) -> None:
    # Each piece in a chunk of its own, as servers send them: 400 of them, gathered one by one, would take 16 seconds.
    model_server.reply(text("abcd" * 400, pieces=400))
    began = time.monotonic()
    assert reply_of(model_server).message.text == "abcd" * 400
    assert time.monotonic() - began < 400 * GATHERING / 4


def test_a_slow_reader_is_not_taken_for_a_stalled_server(model_server: ModelServer) -> None:
    model_server.reply(stream(text("abcd"), delay(0.05), text("efgh")))

    async def read() -> str:
        backend, got = OpenAIBackend("test", model_server.url, None, Settings(stall_timeout=0.2), policy=QUICK), ""
        async for delta in backend.stream(REQUEST):
            assert not isinstance(delta, RetryDelta)
            got += delta.text if isinstance(delta, TextDelta) else ""
            await anyio.sleep(0.15)
        await backend.aclose()
        return got

    assert anyio.run(read) == "abcdefgh"


def test_the_budget_ends_it_and_the_error_says_so(model_server: ModelServer) -> None:
    model_server.always(http(503, {"error": {"message": "Loading model"}}))
    error = error_of(model_server, policy=RetryPolicy(budget=1.0, first=0.02))
    assert isinstance(error, ProviderUnavailable)
    assert "Loading model [gave up after" in str(error)
    assert 3 <= len(model_server.requests) <= 8


def test_a_wait_beyond_the_budget_is_not_begun(model_server: ModelServer) -> None:
    model_server.always(http(429, "", {"Retry-After": "3600"}))
    started = time.monotonic()
    error = error_of(model_server)
    assert isinstance(error, QuotaExceeded)
    assert "it asks to wait 3600 s" in str(error)
    assert time.monotonic() - started < 2
    assert len(model_server.requests) == 1


def test_answers_that_keep_breaking_off_are_bounded(model_server: ModelServer) -> None:
    model_server.always(stream(text("half"), reset()))
    assert "broke" in str(error_of(model_server))
    assert len(model_server.requests) == 4


def test_cancelling_and_leaving_early_close_the_connection(model_server: ModelServer) -> None:
    model_server.always(stream(text("abcdefgh"), stall()))

    async def cancel_in_the_middle() -> None:
        backend = OpenAIBackend("test", model_server.url)
        with anyio.move_on_after(0.2) as scope:
            async for _ in backend.stream(REQUEST):
                pass
        assert scope.cancelled_caught
        deltas = backend.stream(REQUEST)
        await anext(deltas)
        await deltas.aclose()
        await backend.aclose()

    started = time.monotonic()
    anyio.run(cancel_in_the_middle)
    assert time.monotonic() - started < 3


def test_a_request_with_half_a_character_is_sent(model_server: ModelServer) -> None:
    model_server.reply(text("fine"))
    request = msgspec.structs.replace(REQUEST, messages=(text_message("user", "a\udc80b"),))

    async def ask() -> None:
        backend = OpenAIBackend("test", model_server.url)
        [delta async for delta in backend.stream(request)]
        await backend.aclose()

    anyio.run(ask)
    assert model_server.chats[0]["messages"][0]["content"] == "a?b"
    assert json.dumps(model_server.chats[0])
