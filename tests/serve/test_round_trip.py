"""The server reads what our own client writes, and the client what the server writes, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.base import (
    Delta,
    Finished,
    ReasoningDelta,
    Request,
    RetryDelta,
    Sampling,
    TextDelta,
    TokenDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.sse import SSEParser
from laguna_agent.backend.wire import ChunkDecoder, Dialect, encode_request
from laguna_agent.errors import ProviderUnavailable
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolCall, ToolSpec, text_message
from laguna_agent.serve.answers import ChunkWriter, WholeAnswer, event
from laguna_agent.serve.chat_request import read_chat_request

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, values, max_size=3)
share = st.floats(0, 1) | st.none()
penalty = st.floats(-2, 2) | st.none()
count = st.integers(1, 2**53) | st.none()
calls = st.builds(ToolCall, id=words, name=words, arguments=objects)
images = st.builds(ImageBlock, st.sampled_from(["image/png", "image/jpeg"]), st.sampled_from(["QUJD", "AAAA"]))


def texts(role: str) -> st.SearchStrategy[Message]:
    return st.builds(lambda text: text_message(role, text), words) | st.just(Message(role))  # type: ignore[arg-type]


pictured = st.builds(
    lambda image, blocks: Message("user", (image, *blocks)), images, st.lists(st.builds(TextBlock, words) | images)
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, Dialect]:
    """A request in the one form that the protocol has for it, and a dialect that can say all of it."""
    thinking = draw(st.sampled_from(["effort", "openrouter", "template"]))
    dialect = Dialect(draw(st.sampled_from(["reasoning_content", "reasoning"])), draw(st.booleans()), thinking)
    effort = draw(st.sampled_from([None, "off", "high"] if thinking == "template" else [None, "off", "low", "high"]))
    longest = draw(count) if thinking == "openrouter" and effort is None else None
    tool = st.builds(lambda text, id: Message("tool", (TextBlock(text),), (), id), words, words)
    messages = st.lists(
        texts("system") | texts("user") | pictured | tool | assistants(dialect.details), min_size=1, max_size=5
    )
    sampling = Sampling(
        temperature=draw(st.floats(0, 10) | st.none()),
        top_p=draw(share),
        top_k=draw(st.integers(0, 2**53) | st.none()),
        min_p=draw(share),
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
        repetition_penalty=draw(st.floats(0.125, 4) | st.none()),
        max_tokens=draw(count),
        reasoning_tokens=longest,
        seed=draw(st.integers(-(2**63), 2**63 - 1) | st.none()),
        stop=tuple(draw(st.lists(words, max_size=3))),
        reasoning_effort=effort,
        logprobs=draw(st.integers(0, 20) | st.none()),
    )
    tools = draw(st.lists(st.builds(ToolSpec, words, words | st.just(""), objects), max_size=3))
    schema = draw(objects | st.none())
    return Request(draw(words), tuple(draw(messages)), tuple(tools), sampling, schema), dialect


def assistants(details: bool) -> st.SearchStrategy[Message]:
    """Opaque items stand for the thought where they go back, and nothing else does."""

    def message(text: str, made: list[ToolCall], thought: str) -> Message:
        items = ({"type": "reasoning.text", "text": thought},) if details and thought else ()
        content = (TextBlock(text),) if text else ()
        return Message("assistant", content, tuple(made), reasoning=thought, reasoning_details=items)

    return st.builds(message, words | st.just(""), st.lists(calls, max_size=2), words | st.just(""))


@given(requests())
def test_a_request_that_our_client_sends_is_the_one_that_the_server_reads(made: tuple[Request, Dialect]) -> None:
    request, dialect = made
    read = read_chat_request(encode_request(request, dialect))
    assert read.request == request
    assert read.stream
    assert read.include_usage


tokens = st.builds(
    lambda text, value, top: TokenDelta(text, value, tuple(text.encode()), tuple(top)),
    words,
    st.floats(-50, 0),
    st.lists(st.tuples(words, st.floats(-50, 0)), max_size=2),
)
pieces = st.lists(
    st.builds(TextDelta, words)
    | st.builds(ReasoningDelta, words)
    | st.builds(lambda item: ReasoningDelta("", ({"type": "opaque", "data": item},)), words)
    | tokens,
    max_size=8,
)
usages = st.builds(Usage, *[st.integers(0, 10**6)] * 4, st.floats(0, 10).filter(lambda cost: cost != 0) | st.none())


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """An answer as a backend gives it: thought, text, tokens, calls in fragments, usage, the end."""
    deltas: list[Delta] = [*draw(pieces)]
    made = draw(st.integers(0, 3))
    for index in range(made):
        deltas.append(ToolCallDelta(index, f"call_{index}", draw(words), draw(words | st.just(""))))
        deltas += [ToolCallDelta(index, arguments=fragment) for fragment in draw(st.lists(words, max_size=3))]
    deltas += draw(st.lists(tokens, max_size=1))
    deltas += [UsageDelta(usage) for usage in [draw(usages | st.none())] if usage is not None]
    reason = draw(st.sampled_from(["tool_calls" if made else "stop", "length", "content_filter"]))
    return [*deltas, Finished(reason)]  # type: ignore[arg-type]


def chunks(deltas: list[Delta]) -> bytes:
    writer = ChunkWriter("m", include_usage=True)
    return b"".join(event(chunk) for delta in deltas for chunk in writer.write(delta))


def decoded(stream: bytes, size: int) -> list[Delta]:
    parser, decoder, deltas = SSEParser(), ChunkDecoder(), []
    for at in range(0, len(stream), size):
        for item in parser.feed(stream[at : at + size]):
            deltas += decoder.decode(json.loads(item.data))
    return [*deltas, *decoder.end()]


@given(answers(), st.integers(1, 400))
def test_an_answer_that_the_server_streams_is_the_one_that_our_client_reads(deltas: list[Delta], size: int) -> None:
    assert decoded(chunks(deltas), size) == deltas


@given(answers())
def test_a_whole_completion_says_the_same_as_the_stream(deltas: list[Delta]) -> None:
    whole = WholeAnswer("m")
    for delta in deltas:
        whole.add(delta)
    assert whole.finished
    decoder = ChunkDecoder()
    read = [*decoder.decode(json.loads(whole.completion())), *decoder.end()]
    assert folded(read) == folded(deltas)


def folded(deltas: list[Delta]) -> dict[str, Any]:
    """What an answer says, however it was cut. A call without arguments is one with none."""
    called: dict[int, list[str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            call = called.setdefault(delta.index, ["", "", ""])
            called[delta.index] = [call[0] + delta.id, call[1] + delta.name, call[2] + delta.arguments]
    return {
        "text": "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
        "thought": "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        "details": [item for delta in deltas if isinstance(delta, ReasoningDelta) for item in delta.details],
        "calls": {index: (call[0], call[1], call[2] or "{}") for index, call in called.items()},
        "tokens": [delta for delta in deltas if isinstance(delta, TokenDelta)],
        "end": [delta for delta in deltas if isinstance(delta, UsageDelta | Finished)],
    }


def test_a_refusal_goes_out_as_the_filter_that_every_client_knows() -> None:
    assert decoded(chunks([TextDelta("No."), Finished("refusal")]), 7)[-1] == Finished("content_filter")


def test_infinitely_unlikely_tokens_stay_valid_json() -> None:
    sent = chunks([TokenDelta("a", float("-inf"), top=(("b", float("-inf")),)), Finished("stop")])
    assert decoded(sent, 99)[0] == TokenDelta("a", -9999.0, top=(("b", -9999.0),))


def test_calls_without_an_id_get_one_and_keep_it() -> None:
    writer = ChunkWriter("m")
    first, second, third = (
        writer.write(ToolCallDelta(index, name=name, arguments="{}"))[0]["choices"][0]["delta"]["tool_calls"][0]
        for index, name in ((0, "read"), (0, ""), (1, "read"))
    )
    assert first["id"].startswith("call_")
    assert "id" not in second
    assert third["id"] not in {"", first["id"]}


def test_a_retry_before_the_first_chunk_is_nobodys_business_and_one_after_it_ends_the_stream() -> None:
    writer = ChunkWriter("m")
    assert writer.write(RetryDelta(1, 0.5, "busy")) == []
    writer.write(TextDelta("half"))
    with pytest.raises(ProviderUnavailable) as caught:
        writer.write(RetryDelta(2, 0.5, "the line broke"))
    assert caught.value.retryable
    assert "the line broke" in str(caught.value)


def test_a_whole_completion_forgets_what_a_retry_voids() -> None:
    whole = WholeAnswer("m")
    for delta in (TextDelta("half"), RetryDelta(1, 0.1, "x"), TextDelta("whole"), Finished("stop")):
        whole.add(delta)
    assert json.loads(whole.completion())["choices"][0]["message"]["content"] == "whole"


def test_usage_is_sent_only_where_it_is_asked_for() -> None:
    writer = ChunkWriter("m")
    writer.write(UsageDelta(Usage(10, 5, 4, 2, 0.5)))
    assert len(writer.write(Finished("stop"))) == 1
    asked = ChunkWriter("m", include_usage=True)
    asked.write(UsageDelta(Usage(10, 5, 4, 2, 0.5)))
    finish, usage = asked.write(Finished("stop"))
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
        "cost": 0.5,
    }
    assert msgspec.json.encode(usage)
