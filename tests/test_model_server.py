"""The scripted server itself, with a plain HTTP client."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from tests.model_server import ModelServer, completion, http, raw, reasoning, reset, stream, text, tool_call


def post(server: ModelServer, **body: object) -> str:
    request = urllib.request.Request(f"{server.url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode()


def events(answer: str) -> list[dict]:
    lines = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_stream_holds_parts_finish_usage_and_done(model_server: ModelServer) -> None:
    model_server.reply([reasoning("hm"), text("Hello"), tool_call("read", {"path": "a"})])
    got = events(post(model_server, stream=True, messages=[]))
    deltas = [event["choices"][0]["delta"] for event in got if event["choices"]]
    assert "".join(d.get("content", "") for d in deltas) == "Hello"
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "hm"
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert calls[0]["id"] == "call_1" and calls[0]["function"] == {"name": "read", "arguments": ""}
    assert json.loads("".join(c["function"]["arguments"] for c in calls)) == {"path": "a"}
    assert got[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert got[-1]["usage"]["total_tokens"] == 15


def test_other_forms(model_server: ModelServer) -> None:
    model_server.reply(
        text("plain"),
        completion(text("whole")),
        lambda body: text(body["messages"][0]["content"]),
        stream(raw(": hi\n\n"), finish="", usage=None),
    )
    assert json.loads(post(model_server, messages=[]))["choices"][0]["message"]["content"] == "plain"
    assert json.loads(post(model_server, stream=True))["choices"][0]["message"]["content"] == "whole"
    assert "echo" in post(model_server, messages=[{"content": "echo"}])
    assert post(model_server, stream=True) == ": hi\n\ndata: [DONE]\n\n"
    assert [chat.get("stream") for chat in model_server.chats] == [None, True, None, True]


def test_faults(model_server: ModelServer) -> None:
    model_server.reply(http(429, {"error": {"message": "slow"}}, {"Retry-After": "1"}), stream(text("a"), reset()))
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(model_server, stream=True)
    assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "1")
    with pytest.raises(OSError):
        post(model_server, stream=True)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(model_server, stream=True)
