"""Answers on their way: progress, silence, errors in the middle, clients that leave, too many of them, the end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import pytest

from laguna_agent.backend.base import (
    Delta,
    Finished,
    NoticeDelta,
    ProgressDelta,
    ReasoningDelta,
    Request,
    RetryDelta,
    TextDelta,
    TokenDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.errors import ProviderUnavailable
from laguna_agent.serve import delivery, process
from tests.serve.serving import HELLO, TOKEN, Scripted, hello, serving, wait_until


def events(stream: str) -> list[Any]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


def comments(stream: str) -> list[str]:
    return [line for line in stream.splitlines() if line.startswith(":")]


def answering(*deltas: Delta | Exception | float) -> Callable[[Request], AsyncGenerator[Delta]]:
    """Deltas in order; a number is a pause in seconds."""

    async def stream(_: Request) -> AsyncGenerator[Delta]:
        for each in deltas:
            if isinstance(each, float):
                await anyio.sleep(each)
            elif isinstance(each, Exception):
                raise each
            else:
                yield each

    return stream


FOREVER = 600.0


def test_a_stream_in_full() -> None:
    deltas = (
        ReasoningDelta("hm"),
        TokenDelta("Hel", -0.5, (72, 101, 108), (("Hel", -0.5), ("Bye", -1.5))),
        TextDelta("Hello"),
        ToolCallDelta(0, "call_7", "read", '{"path"'),
        ToolCallDelta(0, arguments=': "a"}'),
        UsageDelta(Usage(10, 5)),
        Finished("tool_calls"),
    )
    with serving(Scripted(answering(*deltas))) as client:
        stream = client.stream(stream_options={"include_usage": True})
    assert stream.endswith("data: [DONE]\n\n")
    chunks = events(stream)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "reasoning_content": "hm"}
    assert chunks[1]["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["token"] == "Bye"
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[2:4]]
    assert calls[0] == {
        "index": 0,
        "id": "call_7",
        "type": "function",
        "function": {"name": "read", "arguments": '{"path"'},
    }
    assert calls[1] == {"index": 0, "function": {"arguments": ': "a"}'}}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, None, None, "tool_calls"]
    assert chunks[-1]["usage"]["total_tokens"] == 15


def test_progress_is_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "HEAD_SECONDS", 0.05)
    reading = answering(
        ProgressDelta("loading", 1, 2),
        0.3,
        ProgressDelta("waiting"),
        ProgressDelta("reading", 512, 2000),
        NoticeDelta("two\nlines"),
        TextDelta("x"),
        Finished("stop"),
    )
    with serving(Scripted(reading)) as client:
        stream = client.stream()
        asked = client.stream(return_progress=True)
        status, whole = client.ask()
    assert comments(stream) == [": loading 1/2", ": waiting", ": reading 512/2000", ": two lines"]
    assert [event["choices"][0]["delta"].get("content") for event in events(stream)] == ["x", None]
    assert comments(asked) == [": loading 1/2", ": waiting", ": two lines"]
    assert events(asked)[0]["prompt_progress"] == {"total": 2000, "processed": 512}
    assert (status, whole["choices"][0]["message"]["content"]) == (200, "x")


def test_silence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(delivery, "SILENCE_SECONDS", 0.05)
    with serving(Scripted(answering(0.4, TextDelta("x"), 0.2, Finished("stop")))) as client:
        stream = client.stream()
    assert comments(stream)
    assert set(comments(stream)) == {": working"}


def test_an_error_while_the_prompt_is_read_is_still_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "HEAD_SECONDS", 60.0)
    failing = answering(ProgressDelta("loading", 1, 2), 0.1, ProviderUnavailable("the disk broke", retryable=True))
    with serving(Scripted(failing)) as client, client.open(HELLO | {"stream": True}) as response:
        assert response.status == 503


def test_an_error_in_the_middle_is_an_event_and_no_done() -> None:
    broken = answering(TextDelta("half"), ProviderUnavailable("the engine stopped", retryable=True))
    with serving(Scripted(broken)) as client:
        stream = client.stream()
        status, body = client.ask()
    assert "[DONE]" not in stream
    assert events(stream)[-1]["error"] == {
        "message": "the engine stopped",
        "type": "server_error",
        "param": None,
        "code": "provider_unavailable",
        "status": 503,
    }
    assert (status, body["error"]["message"]) == (503, "the engine stopped")


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_merely_ends_is_an_error(streamed: bool) -> None:
    with (
        serving(Scripted(answering(TextDelta("half")))) as client,
        client.open(HELLO | {"stream": streamed}) as response,
    ):
        said = response.read().decode()
    assert "ended before it was complete" in said
    assert "[DONE]" not in said


def test_a_retry_in_the_middle_ends_the_stream_but_not_a_whole_answer() -> None:
    again = answering(TextDelta("half"), RetryDelta(1, 0.1, "cut"), TextDelta("whole"), Finished("stop"))
    with serving(Scripted(again)) as client:
        assert events(client.stream())[-1]["error"]["status"] == 503
        assert client.ask()[1]["choices"][0]["message"]["content"] == "whole"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_ends_its_generation_at_once(streamed: bool) -> None:
    backend = Scripted(answering(TextDelta("a"), FOREVER, Finished("stop")))
    with serving(backend) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as line:
            line.sendall(raw(HELLO | {"stream": streamed}))
            wait_until(lambda: bool(backend.requests))
            if streamed:
                assert b"200 OK" in line.recv(4096)
            assert not backend.closed.is_set()
        assert backend.closed.wait(2.0)
        wait_until(lambda: client.desk.busy == 0)
        assert client.ask(None, "/health")[0] == 200


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "WRITE_SECONDS", 0.3)

    async def endless(_: Request) -> AsyncGenerator[Delta]:
        while True:
            yield TextDelta("x" * 100_000)

    backend = Scripted(endless)
    with serving(backend) as client, socket.create_connection(("127.0.0.1", client.port)) as line:
        line.sendall(raw(HELLO | {"stream": True}))
        assert backend.closed.wait(10.0)
        wait_until(lambda: client.desk.busy == 0)


def raw(body: Any) -> bytes:
    sent = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    return head.encode() + f"Content-Length: {len(sent)}\r\n\r\n".encode() + sent


def test_requests_run_beside_each_other_up_to_a_limit() -> None:
    together = threading.Barrier(4)

    async def meet(_: Request) -> AsyncGenerator[Delta]:
        yield TextDelta("in")
        await anyio.to_thread.run_sync(together.wait)
        yield Finished("stop")

    with serving(Scripted(meet), limit=3) as client:
        got: list[tuple[int, Any]] = []
        threads = [threading.Thread(target=lambda: got.append(client.ask())) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.desk.busy == 3)
        with client.open() as response:
            assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert client.ask(None, "/v1/models")[0] == 200
        together.wait(20)
        for thread in threads:
            thread.join(20)
        assert [status for status, _ in got] == [200, 200, 200]


def test_a_connection_serves_one_request_after_the_other() -> None:
    with serving(Scripted()) as client, socket.create_connection(("127.0.0.1", client.port)) as line:
        line.sendall(raw(HELLO) * 3)
        got = b""
        while got.count(b'"finish_reason":"stop"') < 3:
            piece = line.recv(65536)
            assert piece
            got += piece


def test_stopping_lets_a_running_answer_finish() -> None:
    with serving(Scripted(answering(TextDelta("a"), 0.5, TextDelta("b"), Finished("stop")))) as client:
        with client.open(HELLO | {"stream": True}) as response:
            client.stop()
            stream = response.read().decode()
        assert stream.endswith("[DONE]\n\n")


def test_stopping_tells_the_rest_why_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FINISH_SECONDS", 0.3)
    backend = Scripted(answering(TextDelta("a"), FOREVER, Finished("stop")))
    with serving(backend) as client:
        got: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: got.append(client.ask()))
        asking.start()
        with client.open(HELLO | {"stream": True}) as response:
            wait_until(lambda: client.desk.busy == 2)
            client.stop()
            stream = response.read().decode()
        asking.join(20)
    assert events(stream)[-1]["error"]["code"] == "server_stopping"
    assert (got[0][0], got[0][1]["error"]["code"]) == (503, "server_stopping")


def test_models_are_described_as_our_own_client_reads_them() -> None:
    with serving(Scripted(hello)) as client:
        listing: Any = client.ask(None, "/v1/models")[1]
    (entry,) = listing["data"]
    assert (entry["object"], entry["owned_by"], entry["context_length"]) == ("model", "scripted", 4096)


def test_a_provider_that_cannot_be_asked_for_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(_: str) -> Any:
        raise ProviderUnavailable("nothing answers", retryable=True)

    backend = Scripted(hello)
    monkeypatch.setattr(backend, "describe", unreachable)
    with serving(backend) as client:
        status, body = client.ask(None, "/v1/models")
        assert (status, body["error"]["message"]) == (503, "nothing answers")
        assert client.ask()[0] == 200


def test_half_characters_break_neither_answers_nor_errors() -> None:
    broken = answering(TextDelta("a\ud83d"), ProviderUnavailable("weights\udcff.gguf is cut"))
    with serving(Scripted(broken)) as client:
        got = events(client.stream())
        assert got[0]["choices"][0]["delta"]["content"] == "a?"
        assert got[1]["error"]["message"] == "weights?.gguf is cut"
        assert client.ask()[0] == 502
