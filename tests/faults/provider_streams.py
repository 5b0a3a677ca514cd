"""Scenarios: connections that break or fall silent, answers that are cut, garbled or odd."""

from __future__ import annotations

from typing import Any

from tests.faults.provider_refusals import CONTEXT_WORDS, SHORT
from tests.faults.provider_runs import BIG, DONE, HALF, TWO, Fault
from tests.model_server import (
    Reply,
    Scripted,
    chunk,
    completion,
    connection,
    cut,
    delay,
    http,
    raw,
    reset,
    sse,
    stall,
    stream,
    text,
    tool_call,
)

HALF_CALL = tool_call("write", HALF)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
PING = (raw(": OPENROUTER PROCESSING\n\n"), delay(0.1))
EMPTY = (chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}]), delay(0.1))


def again(name: str, answer: Scripted, *, void: bool = False, **how: Any) -> Fault:
    """An answer that is no answer and asked for once more."""
    return Fault(name, (answer,), retries=1, void=void, **how)


def _short(seconds: float) -> dict[str, Any]:
    return {"settings": {"LAGUNA_STALL_TIMEOUT": str(seconds)}}


CONNECTIONS: tuple[Fault, ...] = (
    again("a reset in the place of an answer", connection(torn=True), whole=True),
    again("an end in the place of an answer", connection()),
    again("half a status line", connection(b"HTTP/1.1 20")),
    again("another protocol", connection(b"SSH-2.0-OpenSSH_9.6\r\n")),
    again("a reset before the first item", stream(reset())),
    again("a reset after it", stream(text("I shall"), reset()), void=True, whole=True),
    again("a reset in the middle of a call", stream(HALF_CALL, reset()), void=True),
    again("less than the promised length", connection(HEAD + b"Content-Length: 500\r\n\r\n" + sse({"choices": []}))),
    again("a chunk of no known size", connection(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
    again("gzip that is none", connection(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")),
    Fault(
        "answers that keep breaking off",
        (),
        always=stream(text("I shall"), reset()),
        retries=3,
        requests=4,
        void=True,
        exit_code=3,
        words="broke",
    ),
)

STALLS: tuple[Fault, ...] = (
    again("silence in the place of an answer", stream(stall()), settings={"LAGUNA_STALL_TIMEOUT": "0.6"}),
    again("silence after the first item", stream(text("I shall"), stall()), void=True, **_short(1.5)),
    again("silence in the middle of a call", stream(HALF_CALL, stall()), void=True, **_short(1.5)),
    again(
        "comments and nothing else",
        stream(text("I shall", pieces=1), *PING * 60, finish=""),
        void=True,
        words="stalled",
        settings={"LAGUNA_KEEP_ALIVE_TIMEOUT": "1.2"},
        whole=True,
    ),
    again(
        "empty chunks and nothing else",
        stream(text("I shall", pieces=1), *EMPTY * 60, finish=""),
        void=True,
        words="stalled",
        settings={"LAGUNA_KEEP_ALIVE_TIMEOUT": "1.2"},
    ),
    Fault(
        "silence for ever",
        (),
        always=stream(text("I shall"), stall()),
        retries=1,
        requests=2,
        void=True,
        exit_code=3,
        words="stalled",
        settings={"LAGUNA_STALL_TIMEOUT": "1", "LAGUNA_RETRY_BUDGET": "1"},
    ),
)

CUTS: tuple[Fault, ...] = (
    again("an empty body", http(200, "", {"Content-Type": "text/event-stream"})),
    again("an end without an item", stream(cut())),
    again("an end without a finish", stream(text("Done."), cut()), void=True, whole=True),
    again("DONE without a finish", stream(text("Done."), finish=""), void=True),
    again("half a call and the end", stream(HALF_CALL, cut()), void=True, whole=True),
    again(
        "a whole call without a finish",
        stream(tool_call("write", {"path": "half.txt", "content": "x"}), cut()),
        void=True,
    ),
    again("thought and the end", stream(chunk(choices=[{"delta": {"reasoning": "Hm"}}]), cut()), void=True),
    again("JSON that does not close", http(200, '{"choices": [{"message": {"content": "Do', {})),
    again("an event that does not close", stream(raw('data: {"choices": [{"delta": {"content": "Do'), cut())),
    again("an event that is no JSON", stream(text("I shall"), raw("data: {nonsense\n\n")), void=True),
    again("an error of no known kind", stream(text("I shall"), chunk(error={"message": "oops"})), void=True),
    again("overload in the stream", stream(chunk(error={"code": 502, "message": "overloaded"})), words="overloaded"),
    again(
        "an error inside the choice",
        stream(
            text("I shall"),
            chunk(choices=[{"delta": {}, "finish_reason": "error", "error": {"code": 503, "message": "upstream"}}]),
        ),
        void=True,
        words="upstream",
    ),
    again("an event named error", stream(raw(b"event: error\n" + sse({"message": "upstream", "code": 500})))),
    again("finish reason error", stream(text("I shall"), finish="error"), void=True, whole=True),
    again("a call that Google could not read", stream(finish="MALFORMED_FUNCTION_CALL")),
    again("an error object with status 200", http(200, {"error": {"code": 503, "message": "overloaded"}}, SHORT)),
    Fault(
        "a refused key in the stream",
        (stream(chunk(error={"code": 401, "message": "who?"})),),
        exit_code=3,
        words="refuses the key",
    ),
    Fault(
        "a bad request in the stream",
        (stream(chunk(error={"code": "invalid_request_error", "message": "no such field"})),),
        exit_code=3,
        words="no such field",
    ),
    Fault(
        "an HTML page with status 200",
        (http(200, "<html><title>Log in</title></html>", {"Content-Type": "text/html"}),),
        exit_code=3,
        words="an HTML page where a completion was due",
        whole=True,
    ),
    Fault(
        "an HTML page that calls itself a stream",
        (http(200, "\n<!doctype html><title>Log in</title>", {"Content-Type": "text/event-stream"}),),
        exit_code=3,
        words="an HTML page where a completion was due",
    ),
    Fault("plain text", (http(200, "hello"),), exit_code=3, words="text/plain where a completion was due"),
    Fault(
        "a line above the limit",
        (stream(*[raw(b"x" * 2**20) for _ in range(17)]),),
        exit_code=3,
        words="more than 16 MB",
    ),
)


def good(name: str, answer: Scripted, **how: Any) -> Fault:
    """An odd answer that calls for the second file, and is taken."""
    return Fault(name, (answer,), then=(DONE,), **how)


def call_event(**call: Any) -> bytes:
    return sse({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]})


CALL = call_event(index=0, id="c9", function={"name": "write", "arguments": '{"path": "two.txt", "content": "two\\n"}'})
FINISH = sse({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})


def typed(kind: str) -> Reply:
    return http(200, CALL + FINISH, {"Content-Type": kind})


ODD: tuple[Fault, ...] = (
    good("JSON for a stream", completion(TWO), whole=True),
    good("no DONE", stream(TWO, done=False)),
    good("a stream called JSON", typed("application/json")),
    good("a stream called nothing", typed("")),
    good("a stream called text", typed("text/plain; charset=latin-1")),
    good("a byte order mark and blank lines", http(200, b"\n\n\xef\xbb\xbf: hi\n\n" + CALL + FINISH)),
    good("a reset after the finish", stream(raw(CALL + FINISH), reset())),
    good("comments and unknown lines", stream(*PING[:1], raw(":\nnonsense\nid: 4\nretry: 9\n\n"), TWO)),
    good("carriage returns", stream(raw((CALL + FINISH).replace(b"\n", b"\r\n")))),
    good("bare carriage returns", stream(raw((CALL + FINISH).replace(b"\n", b"\r")))),
    good("one byte at a time", stream(*[raw(bytes([byte])) for byte in CALL + FINISH])),
    good("choices that are empty or null", stream(chunk(choices=[]), chunk(choices=None), chunk(), TWO)),
    good("line of 4 MB", stream(chunk(choices=[{"delta": {"content": ""}, "padding": "x" * 4_000_000}]), TWO)),
    good("usage that is null", stream(chunk(choices=[], usage=None), TWO, usage=None)),
    good(
        "arguments that are an object",
        stream(
            raw(call_event(index=0, function={"name": "write", "arguments": {"path": "two.txt", "content": "two\n"}})),
            finish="tool_calls",
        ),
    ),
    good("calls that end with stop", stream(TWO, finish="stop")),
    good("calls without ids", stream(tool_call("write", {"path": "two.txt", "content": "two\n"}, id=""))),
    good(
        "an id that was there before", stream(tool_call("write", {"path": "two.txt", "content": "two\n"}, id="call_1"))
    ),
    good(
        "two calls with one id",
        stream(
            tool_call("write", {"path": "two.txt", "content": "two\n"}, id="x"),
            tool_call("write", {"path": "three.txt", "content": "three\n"}, id="x"),
        ),
        files=("one", "two", "three"),
    ),
    good(
        "a character in two packets",
        stream(
            raw(sse({"choices": [{"delta": {"content": "é"}}]})[:-8]),
            delay(0.02),
            raw(sse({"choices": [{"delta": {"content": "é"}}]})[-8:]),
            TWO,
        ),
    ),
)

BAD_CALLS: tuple[Fault, ...] = (
    Fault("a call that never closes", (stream(HALF_CALL, finish="tool_calls"),), whole=True),
    Fault("a call cut by the length", (stream(HALF_CALL, finish="length"),)),
    Fault("a call cut before its arguments", (stream(tool_call("list", ""), finish="length"),)),
    Fault("a call with one brace too many", (stream(tool_call("write", '{"path": "half.txt"}}')),)),
    Fault("a call of a tool that is not there", (tool_call("teleport", {"path": "half.txt"}),)),
    Fault("an answer cut by the length", (stream(text("First I"), finish="length"),)),
    Fault("an empty answer", (stream(),)),
)

CONTEXTS: tuple[Fault, ...] = (
    *(
        Fault(
            f"a conversation too long for {who}",
            (answer,),
            first=BIG,
            files=("two",),
            same=False,
            whole=who == "llama.cpp",
        )
        for who, answer in CONTEXT_WORDS.items()
    ),
    Fault(
        "a conversation that stays too long",
        (CONTEXT_WORDS["vLLM"], CONTEXT_WORDS["vLLM"]),
        first=BIG,
        exit_code=3,
        words="does not fit the model's context window",
        same=False,
    ),
)
