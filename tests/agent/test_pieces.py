"""Deltas in the log: fewer bytes, and back to what they were."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.agent.pieces import Pieces, packed
from laguna_agent.agent.store import AnyRecord, Replied
from laguna_agent.backend.base import (
    Delta,
    Finished,
    ReasoningDelta,
    RetryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=3)
DELTAS: st.SearchStrategy[Delta] = st.one_of(
    st.builds(TextDelta, TEXT),
    st.builds(ReasoningDelta, TEXT),
    st.builds(ReasoningDelta, TEXT, st.just(({"type": "x"},))),
    st.builds(ToolCallDelta, st.integers(0, 1), arguments=TEXT),
    st.builds(ToolCallDelta, st.integers(0, 1), st.just("c1"), st.just("read"), TEXT),
    st.just(RetryDelta(1, 0.5, "gone")),
    st.just(UsageDelta(Usage(5, 1))),
    st.just(Finished("stop")),
)


@settings(max_examples=150)
@given(st.lists(DELTAS, max_size=24))
def test_they_come_back_as_they_were(deltas: list[Delta]) -> None:
    record = Replied("digest", packed(deltas), None, 7)
    again = msgspec.json.decode(msgspec.json.encode(record), type=AnyRecord)
    assert again == record
    assert isinstance(again, Replied)
    assert again.deltas == tuple(deltas)


def test_an_answer_takes_little_more_than_it_says() -> None:
    words = tuple(TextDelta(f" {number:03d}") for number in range(400))
    line = msgspec.json.encode(Replied("d", packed(words)))
    assert len(line) < 2 * sum(len(word.text) for word in words)
    assert isinstance(packed(words)[0], Pieces)


def test_older_logs_are_read() -> None:
    line = b'{"record":"replied","request":"d","deltas":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}'
    record = msgspec.json.decode(line, type=AnyRecord)
    assert isinstance(record, Replied)
    assert record.deltas == (TextDelta("a"), TextDelta("b"))
