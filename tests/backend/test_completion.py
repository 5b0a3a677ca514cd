"""An answer that is cut is no answer, wherever it is cut: it is asked for again, or had said why it ended."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.backend.base import Request
from laguna_agent.backend.completion import deltas_of
from laguna_agent.backend.faults import Origin
from laguna_agent.backend.timer import Timer
from laguna_agent.errors import ProviderError
from tests.model_server import sse


def frame(delta: dict[str, object], finish: str | None = None) -> bytes:
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def call(index: int, arguments: str, **opening: str) -> bytes:
    function = {"arguments": arguments} | ({"name": opening["name"]} if opening else {})
    return frame({"tool_calls": [{"index": index, "function": function} | ({"id": opening["id"]} if opening else {})]})


BODY = (
    b": keep-alive\n\n"
    + frame({"role": "assistant", "content": ""})
    + frame({"reasoning_content": "Händig 🦆"})
    + frame({"content": "I shall write."})
    + call(0, "", id="a", name="write")
    + call(0, '{"path": "x", ')
    + call(0, '"content": "{}"}')
    + call(1, '{"path": "y"}', id="b", name="read")
)
FINISH = frame({}, "tool_calls")
REST = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}) + b"data: [DONE]\n\n"
CALLED = {"content": "Hi {", "tool_calls": [{"id": "a", "function": {"name": "w", "arguments": "{}"}}]}
WHOLE = json.dumps({"choices": [{"message": CALLED, "finish_reason": "tool_calls"}]}).encode()


def reply_to(pieces: Sequence[bytes], media_type: str = "text/event-stream") -> Reply:
    """What a client makes of a body that comes in these pieces and ends. Raises ProviderError."""

    async def body() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> Reply:
        assembler, origin = Assembler(Request("m", ())), Origin("test", "host", "m")
        async for delta in deltas_of(body(), media_type, Timer(9.0, 9.0, 9.0), origin):
            assembler.feed(delta)
        return assembler.reply()

    return anyio.run(read)


def test_a_stream_cut_at_any_byte() -> None:
    whole = reply_to([BODY + FINISH + REST]).message
    assert [(each.id, each.error) for each in whole.tool_calls] == [("a", ""), ("b", "")]
    everything = BODY + FINISH + REST
    for at in range(len(everything)):
        try:
            reply = reply_to([everything[:at]])
        except ProviderError as error:
            assert error.retryable, f"cut at {at}: {error}"
            assert at < len(BODY + FINISH), f"cut at {at}: the answer had said why it ended"
        else:
            # The finish is an event like others: it has come with the first of the two ends of lines.
            assert at >= len(BODY + FINISH) and reply.message == whole, f"cut at {at}"


def test_an_object_cut_at_any_byte() -> None:
    assert reply_to([WHOLE], "application/json").message.text == "Hi {"
    for at in range(len(WHOLE)):
        with pytest.raises(ProviderError) as caught:
            reply_to([WHOLE[:at]], "application/json")
        # Before the first byte nothing tells it from a server that has nothing to say.
        assert caught.value.retryable, at


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_any_split_of_a_stream_is_the_same_answer(sizes: list[int]) -> None:
    everything, pieces, at = BODY + FINISH + REST, list[bytes](), 0
    while at < len(everything):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(everything[at : at + size])
        at += size
    reply = reply_to(pieces)
    assert (reply.message, reply.usage) == (reply_to([everything]).message, reply_to([everything]).usage)


@given(st.binary(max_size=200), st.sampled_from(["text/event-stream", "application/json", "text/html", ""]))
def test_noise_is_an_error_by_name(noise: bytes, media_type: str) -> None:
    with pytest.raises(ProviderError):
        reply_to([noise], media_type)
