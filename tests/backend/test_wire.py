"""Requests as bytes, chunks as deltas, deltas as one reply."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.backend.base import (
    Finished,
    ReasoningDelta,
    Request,
    RetryDelta,
    Sampling,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.wire import ChunkDecoder, Dialect, encode_request, parse_json
from laguna_agent.errors import ProviderUnavailable
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolCall, ToolSpec, text_message

TOOL = ToolSpec("read", "Reads.", {"type": "object", "properties": {"path": {"type": "string"}}})
REQUEST = Request("m", (text_message("system", "Be brief."), text_message("user", "Hi")), (TOOL,))


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def call(arguments: Any = "", **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    return {"function": {"arguments": arguments} | ({"name": name} if name else {})} | fields


def reply_of(*chunks: dict[str, Any], request: Request = REQUEST) -> Reply:
    decoder, assembler = ChunkDecoder(), Assembler(request)
    for chunk in chunks:
        for item in decoder.decode(chunk):
            assembler.feed(item)
    for item in decoder.end():
        assembler.feed(item)
    return assembler.reply()


def calls_of(*chunks: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], bool]]:
    calls = reply_of(*chunks, delta(finish="tool_calls")).message.tool_calls
    return [(c.id, c.name, c.arguments, bool(c.error)) for c in calls]


def body(request: Request, dialect: Dialect | None = None) -> dict[str, Any]:
    return json.loads(encode_request(request, dialect or Dialect()))


def test_the_body_of_the_next_turn_begins_with_the_bytes_of_this_one() -> None:
    first = encode_request(REQUEST, Dialect())
    more = (
        *REQUEST.messages,
        Message("assistant", (), (ToolCall("a", "read", {"path": "x"}),)),
        Message("tool", (TextBlock("x"),), (), "a"),
    )
    second = encode_request(msgspec.structs.replace(REQUEST, messages=more), Dialect())
    assert first.endswith(b"]}")
    assert second.startswith(first[:-2])
    assert list(json.loads(first)) == ["model", "stream", "stream_options", "tools", "messages"]


def test_messages_take_the_form_of_the_protocol() -> None:
    image = ImageBlock("image/png", "QUJD")
    history = (
        Message("user", (TextBlock("look"), image)),
        Message(
            "assistant", (), (ToolCall("a", "read", {"path": "é"}), ToolCall("b", "read", raw='{"pa', error="cut"))
        ),
        Message("tool", (TextBlock("one"), image), (), "a"),
        Message("tool", (TextBlock("two"),), (), "b"),
        Message("assistant", (TextBlock("done"),), reasoning="hm"),
    )
    sent = body(msgspec.structs.replace(REQUEST, messages=history))["messages"]
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert sent[0] == {"role": "user", "content": [{"type": "text", "text": "look"}, url]}
    assert sent[1]["content"] is None
    assert [c["function"]["arguments"] for c in sent[1]["tool_calls"]] == ['{"path":"é"}', "{}"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool", "user", "assistant"]
    assert sent[4]["content"] == [url]
    assert sent[5] == {"role": "assistant", "content": "done", "reasoning_content": "hm"}


def test_thought_goes_back_in_the_form_that_the_provider_wants() -> None:
    history = (Message("assistant", (TextBlock("a"),), reasoning="r", reasoning_details=({"type": "x"},)),)
    request = msgspec.structs.replace(REQUEST, messages=history)
    assert body(request)["messages"][0]["reasoning_content"] == "r"
    assert body(request, Dialect("reasoning", details=True))["messages"][0] == {
        "role": "assistant",
        "content": "a",
        "reasoning_details": [{"type": "x"}],
    }


@pytest.mark.parametrize(
    ("thinking", "effort", "sent"),
    [
        ("effort", "off", {"reasoning_effort": "none"}),
        ("effort", "high", {"reasoning_effort": "high"}),
        ("openrouter", "off", {"reasoning": {"enabled": False}}),
        ("openrouter", "low", {"reasoning": {"effort": "low"}}),
        ("template", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("template", "low", {"chat_template_kwargs": {"enable_thinking": True}}),
    ],
)
def test_thinking_is_switched_as_the_server_wants(thinking: Any, effort: Any, sent: dict[str, Any]) -> None:
    request = msgspec.structs.replace(REQUEST, sampling=Sampling(reasoning_effort=effort))
    posted = body(request, Dialect(thinking=thinking))
    assert {key: posted.get(key) for key in sent} == sent


def test_sampling_and_schema() -> None:
    sampling = Sampling(temperature=0.0, top_p=0.9, top_k=20, max_tokens=7, seed=1, stop=("```",))
    posted = body(msgspec.structs.replace(REQUEST, sampling=sampling, response_schema={"type": "object"}))
    assert {k: posted[k] for k in ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop")} == {
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 7,
        "seed": 1,
        "stop": ["```"],
    }
    assert posted["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_every_spelling_of_thought(field: str) -> None:
    reply = reply_of(delta(**{field: "a", "content": None}), delta(**{field: "b"}), delta(content="c", finish="stop"))
    assert (reply.message.reasoning, reply.message.text, reply.finish) == ("ab", "c", "stop")


def test_reasoning_details_are_put_together() -> None:
    reply = reply_of(
        delta(reasoning="a", reasoning_details=[{"type": "reasoning.text", "index": 0, "text": "a"}]),
        delta(reasoning_details=[{"type": "reasoning.text", "index": 0, "text": "b", "signature": "s"}]),
        delta(reasoning_details=[{"type": "reasoning.encrypted", "index": 1, "data": "x"}]),
    )
    assert reply.message.reasoning == "ab"
    assert reply.message.reasoning_details == (
        {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"},
        {"type": "reasoning.encrypted", "index": 1, "data": "x"},
    )


def test_half_characters_never_reach_the_history() -> None:
    half = {"type": "x", "text": "\ud83d"}
    reply = reply_of(
        delta(reasoning_details=[half], tool_calls=[call({"path": "\ud83d"}, index=0, id="\ud83d", name="read\ud83d")])
    )
    history = (*REQUEST.messages, reply.message)
    encode_request(msgspec.structs.replace(REQUEST, messages=history), Dialect("reasoning", details=True))


def test_mistral_content_parts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    reply = reply_of(delta(content=[thought]), delta(content=[{"type": "text", "text": "yes"}]))
    assert (reply.message.reasoning, reply.message.text) == ("hm", "yes")


@pytest.mark.parametrize(
    ("content", "thought", "text"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("hm</think>yes", "hm", "yes"),
        ("the tag `</think>` ends it", "", "the tag `</think>` ends it"),
    ],
)
def test_thought_left_in_the_content(content: str, thought: str, text: str) -> None:
    message = reply_of(delta(content=content)).message
    assert (message.reasoning, message.text) == (thought, text)


def test_usage_in_a_chunk_without_choices() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost": 0.5,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    reply = reply_of(delta(content="a", finish="stop"), {"choices": [], "usage": usage})
    assert reply.usage == Usage(100, 20, 60, 7, 0.5)
    decoder = ChunkDecoder()
    decoder.decode(delta(content="a", finish="stop"))
    assert decoder.end() == [Finished("stop")]


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        # The usual form: id and name first with empty arguments, fragments after.
        (
            [
                delta(tool_calls=[call("", index=0, id="x", name="read")]),
                delta(tool_calls=[call('{"path": ', index=0)]),
                delta(tool_calls=[call('"a"}', index=0)]),
            ],
            [("x", "read", {"path": "a"}, False)],
        ),
        # Whole calls in one chunk, arguments as an object.
        (
            [delta(tool_calls=[call({"path": "a"}, index=0, id="x", name="read")])],
            [("x", "read", {"path": "a"}, False)],
        ),
        # No ids, no index.
        (
            [delta(tool_calls=[call('{"path": "a"}', name="read"), call('{"path": "b"}', name="read")])],
            [("call_1", "read", {"path": "a"}, False), ("call_2", "read", {"path": "b"}, False)],
        ),
        # Every call says index 0, the ids differ.
        (
            [
                delta(tool_calls=[call('{"path": "a"}', index=0, id="x", name="read")]),
                delta(tool_calls=[call('{"path": "b"}', index=0, id="y", name="read")]),
            ],
            [("x", "read", {"path": "a"}, False), ("y", "read", {"path": "b"}, False)],
        ),
        # The same id twice.
        (
            [delta(tool_calls=[call("{}", index=0, id="x", name="read"), call("{}", index=1, id="x", name="read")])],
            [("x", "read", {}, False), ("call_1", "read", {}, False)],
        ),
        # Name and id repeated with each fragment.
        (
            [
                delta(tool_calls=[call('{"path"', index=0, id="x", name="read")]),
                delta(tool_calls=[call(': "a"}', index=0, id="x", name="read")]),
            ],
            [("x", "read", {"path": "a"}, False)],
        ),
        ([delta(tool_calls=[call(None, index=0, id="x", name="read")])], [("x", "read", {}, False)]),
        (
            [delta(tool_calls=[call('"{\\"path\\": \\"a\\"}"', index=0, id="x", name="read")])],
            [("x", "read", {"path": "a"}, False)],
        ),
        ([delta(tool_calls=[call('{"path": "a', index=0, id="x", name="read")])], [("x", "read", {}, True)]),
        ([delta(tool_calls=[call("{'path': 'a'}", index=0, id="x", name="read")])], [("x", "read", {}, True)]),
        ([delta(tool_calls=[call("[1]", index=0, id="x", name="read")])], [("x", "read", {}, True)]),
        (
            [delta(tool_calls=[call('{"path": "a"} {"path": "b"}', index=0, id="x", name="read")])],
            [("x", "read", {}, True)],
        ),
        ([delta(tool_calls=[call('{"path": "\\ud800"}', index=0, id="x", name="read")])], [("x", "read", {}, True)]),
    ],
)
def test_calls_in_the_forms_that_servers_send(chunks: list[dict[str, Any]], calls: list[Any]) -> None:
    assert calls_of(*chunks) == calls


def test_a_broken_call_keeps_what_the_model_wrote() -> None:
    (broken,) = reply_of(
        delta(tool_calls=[call('{"path": "a', index=0, id="x", name="read")]), delta(finish="length")
    ).message.tool_calls
    assert broken.raw == '{"path": "a'
    (unstarted,) = reply_of(
        delta(tool_calls=[call("", index=0, id="x", name="read")]), delta(finish="length")
    ).message.tool_calls
    assert "cut off" in unstarted.error


def test_made_up_ids_are_unique_in_the_conversation_and_repeat() -> None:
    history = (*REQUEST.messages, Message("assistant", (), (ToolCall("call_2", "read"), ToolCall("x", "read"))))
    request = msgspec.structs.replace(REQUEST, messages=history)
    chunk = delta(
        tool_calls=[
            call("{}", index=0, name="read"),
            call("{}", index=1, id="call_2", name="read"),
            call("{}", index=2, id="y", name="read"),
        ]
    )
    for _ in range(2):
        assert [c.id for c in reply_of(chunk, request=request).message.tool_calls] == ["call_3", "call_4", "y"]


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
        ("tool_calls", "stop"),
    ],
)
def test_finish_reasons(wire: str, reason: str) -> None:
    assert reply_of(delta(content="a", finish=wire)).finish == reason


def test_a_refusal_and_a_broken_generation() -> None:
    reply = reply_of(delta(refusal="I cannot."), delta(finish="stop"))
    assert (reply.message.text, reply.finish) == ("I cannot.", "refusal")
    with pytest.raises(ProviderUnavailable) as caught:
        reply_of(delta(finish="error"))
    assert caught.value.retryable


def test_stop_with_calls_is_tool_calls() -> None:
    assert (
        reply_of(delta(tool_calls=[call("{}", index=0, id="x", name="read")]), delta(finish="stop")).finish
        == "tool_calls"
    )


def test_a_retry_voids_what_came_before() -> None:
    assembler = Assembler(REQUEST)
    for item in (
        TextDelta("half"),
        ReasoningDelta("hm"),
        ToolCallDelta(0, "x", "read", "{"),
        RetryDelta(1, 0.5, "reset"),
        TextDelta("whole"),
        UsageDelta(Usage(1, 2)),
        Finished("stop"),
    ):
        assembler.feed(item)
    reply = assembler.reply()
    assert reply == Reply(text_message("assistant", "whole"), "stop", Usage(1, 2))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 200), max_size=6))
def test_text_cut_between_utf16_halves_is_put_together(text: str, cuts: list[int]) -> None:
    units = text.encode("utf-16-le")
    bounds = [0, *sorted(2 * cut for cut in cuts if 2 * cut < len(units)), len(units)]
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(bounds)]
    decoder = ChunkDecoder()
    deltas = [item for piece in pieces for item in decoder.decode(delta(content=piece))]
    assert "".join(item.text for item in deltas if isinstance(item, TextDelta)) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-1, 3) | st.sampled_from(["", "x", "stop"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "delta",
                        "message",
                        "content",
                        "tool_calls",
                        "function",
                        "name",
                        "arguments",
                        "usage",
                        "index",
                        "id",
                        "reasoning_details",
                        "finish_reason",
                        "prompt_tokens",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    ).filter(lambda value: isinstance(value, dict))
)
def test_no_chunk_makes_the_decoder_fail(chunk: dict[str, Any]) -> None:
    decoder = ChunkDecoder()
    decoder.decode({"choices": [chunk], "usage": chunk})
    decoder.decode({"choices": [{"delta": chunk}]})
    decoder.decode({"choices": [{"delta": {"tool_calls": [chunk, {"function": chunk}]}}]})
    decoder.end()


ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)


@given(ANY_JSON, st.booleans())
def test_json_is_read_as_python_reads_it(value: Any, ascii: bool) -> None:
    written = json.dumps(value, ensure_ascii=ascii)
    assert repr(parse_json(written)) == repr(json.loads(written))


@pytest.mark.parametrize("damaged", ["", "{", '{"a": 1}{"b": 2}', "[" * 100_000, "<html>", "\ud83d"])
def test_what_is_no_json_is_none(damaged: str) -> None:
    assert parse_json(damaged) is None
