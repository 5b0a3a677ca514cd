"""The SSE parser against the standard's rules, and against every way to cut the bytes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.sse import ServerEvent, SSEParser
from laguna_agent.errors import ProviderError


def parse(data: bytes, cuts: list[int] | None = None) -> list[ServerEvent]:
    parser, events, start = SSEParser(), [], 0
    for cut in [*sorted(cuts or []), len(data)]:
        events += parser.feed(data[start:cut])
        start = cut
    return events


@pytest.mark.parametrize(
    ("sent", "data"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data: a\r\n\r\n", ["a"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\n\ndata:  a\n\n", ["a", " a"]),
        (b"data\n\ndata:\n\n", ["", ""]),
        (b": keep-alive\n\n:\n\ndata: a\n\n", ["a"]),
        (b"garbage\nid: 7\nretry: 9\ndatabase: x\ndata: a\n\n", ["a"]),
        (b"data: never ended\n", []),
        (b"data: a: b\n\n", ["a: b"]),
        (b"data: \xff\xfe\n\n", ["��"]),
        (b"\n\n\n", []),
    ],
)
def test_the_rules_of_the_standard(sent: bytes, data: list[str]) -> None:
    assert [event.data for event in parse(sent)] == data


def test_event_names_last_for_one_event() -> None:
    assert parse(b"event: error\ndata: a\n\ndata: b\n\n") == [ServerEvent("a", "error"), ServerEvent("b")]


LINES = st.sampled_from(
    [
        b'data: {"a": "\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x86"}',
        b"data:",
        b": ping",
        b"event: x",
        b"",
        b"junk",
        b"\xef\xbb\xbf",
        b"data: \xe2",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=20).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@given(STREAMS, st.data())
def test_any_split_gives_the_same_events(sent: bytes, draw: st.DataObject) -> None:
    whole = parse(sent)
    assert parse(sent, draw.draw(st.lists(st.integers(0, len(sent)), max_size=8))) == whole
    assert parse(sent, list(range(len(sent)))) == whole


def test_a_long_line_is_read_in_linear_time_and_a_boundless_one_is_refused() -> None:
    parser, started = SSEParser(), time.monotonic()
    pieces = [b"data: ", *[b"x" * 1024] * 4096, b"\n\n"]
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert len(events[0].data) == 4 * 2**20
    assert time.monotonic() - started < 5
    with pytest.raises(ProviderError, match="more than 16 MB"):
        for _ in range(17):
            parser.feed(b"x" * 2**20)


def test_many_data_lines_of_one_event_are_bounded_too() -> None:
    parser = SSEParser(limit=1000)
    with pytest.raises(ProviderError):
        for _ in range(200):
            parser.feed(b"data: 0123456789\n")
