"""What an agent tells, in any order and in any pieces, as events that a face can rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.acp import schema
from laguna_agent.acp.client.calls import LIVE, MORE, added, unfenced
from laguna_agent.acp.client.incoming import HELD, Incoming
from laguna_agent.acp.client.translation import Translator
from laguna_agent.agent.events import (
    Compaction,
    Event,
    Notice,
    TextDelta,
    ToolCallStarted,
    ToolCallUpdate,
    UsageUpdated,
    UserMessage,
)
from laguna_agent.messages import FileDiff, ImageBlock, Location, TextBlock

ROOT = Path("/project")


def told(*updates: schema.SessionUpdate) -> list[Event]:
    """The events of a turn."""
    translator = Translator(ROOT)
    translator.begin_turn()
    events = [event for update in updates for event in translator.events(update)]
    return events + list(translator.end_turn())


def content(*texts: str) -> list[schema.ToolCallContent]:
    return [schema.Content(content=schema.TextContent(text=text)) for text in texts]


def update(id: str = "c", **fields: Any) -> schema.SessionUpdateToolCallUpdate:
    return schema.SessionUpdateToolCallUpdate(tool_call_id=id, **fields)


@given(st.text("ab\n", max_size=600), st.text("ab\n", max_size=600))
def test_what_is_added_makes_what_was_shown_end_as_the_new_output(before: str, now: str) -> None:
    assert (before + added(before, now)).endswith(now)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 999).map(lambda n: f"line {n}\n"), max_size=60), st.integers(600, 900))
def test_live_output_that_loses_its_beginning_comes_whole(lines: list[str], tail: int) -> None:
    # Each line is told from the others, as output of commands mostly is.
    pieces = [f"{at}: {line}" for at, line in enumerate(lines)]
    shown = [content("".join(pieces[: at + 1])[-tail:]) for at in range(len(pieces))]
    events = told(*(update(status="in_progress", content=each) for each in shown))
    assert "".join(e.output for e in events if isinstance(e, ToolCallUpdate)) == "".join(pieces)


def test_live_output_has_an_end() -> None:
    events = told(*(update(content=content("x" * size)) for size in range(0, 3 * LIVE, LIVE // 4)))
    live = "".join(event.output for event in events if isinstance(event, ToolCallUpdate))
    assert live == "x" * LIVE + MORE


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("```\na\nb\n```", "a\nb"),
        ("```console\na\n```\n", "a"),
        ("````\n```\n````", "```"),
        ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
        ("plain", "plain"),
    ],
)
def test_fences_around_a_whole_are_left_out(text: str, inside: str) -> None:
    assert unfenced(text) == inside


calls = st.builds(
    lambda id, first, **fields: (
        schema.ToolCall(tool_call_id=id, **{"title": "", **fields}) if first else update(id, **fields)
    ),
    id=st.sampled_from("abc"),
    first=st.booleans(),
    title=st.sampled_from(["One", "Two"]),
    status=st.sampled_from([None, "pending", "in_progress", "completed", "failed"]),
    kind=st.sampled_from([None, "edit", "execute", "switch_mode"]),
    content=st.sampled_from(
        [
            None,
            content("a"),
            content("ab", "c"),
            [schema.Diff(path="/project/x", new_text="n")],
            [schema.Terminal(terminal_id="t")],
        ]
    ),
    raw_output=st.sampled_from([None, 3, "out", {"exitCode": 1, "seconds": 2, "output": "out"}, {"exitCode": "no"}]),
)
words = st.builds(
    lambda kind, text, id: kind(content=schema.TextContent(text=text), message_id=id),
    kind=st.sampled_from([schema.AgentMessageChunk, schema.AgentThoughtChunk, schema.UserMessageChunk]),
    text=st.sampled_from(["", "x", "\x1b"]),
    id=st.sampled_from([None, "1", "2"]),
)


@settings(max_examples=100)
@given(st.lists(calls | words, max_size=25))
def test_every_call_begins_before_it_goes_on_and_ends_once(updates: list[schema.SessionUpdate]) -> None:
    running: set[str] = set()
    for event in told(*updates):
        if isinstance(event, ToolCallStarted):
            running.add(event.id)
        elif isinstance(event, ToolCallUpdate):
            assert event.id in running
            if event.status in {"completed", "failed"}:
                running.discard(event.id)
        assert not isinstance(event, UserMessage)
    assert not running


def test_a_call_keeps_what_an_update_does_not_name() -> None:
    diff = schema.Diff(path="/project/a.py", old_text="1", new_text="2")
    events = told(
        schema.ToolCall(tool_call_id="c", title="Edit", kind="edit", raw_input=["a.py"], content=[diff]),
        update(title="Edit a.py", locations=[schema.ToolCallLocation(path="/elsewhere/b.py", line=3)]),
        update(status="in_progress"),
        update(status="completed", content=content("Done.")),
        update(status="failed", content=content("late")),
    )
    where = (Location("/elsewhere/b.py", 3),)
    assert events == [
        ToolCallStarted("c", "edit", "edit", "Edit", {"input": ["a.py"]}),
        ToolCallStarted("c", "edit", "edit", "Edit a.py", {"input": ["a.py"]}, where),
        ToolCallUpdate("c", "in_progress"),
        ToolCallUpdate(
            "c",
            "completed",
            content=(TextBlock("Done."),),
            diffs=(FileDiff("a.py", "1", "2"),),
            locations=where,
        ),
    ]


def test_what_comes_late_of_a_call_that_was_closed_is_no_news() -> None:
    translator = Translator(ROOT)
    translator.begin_turn()
    assert [type(each) for each in translator.events(update(title="Run"))] == [ToolCallStarted]
    assert list(translator.end_turn()) == [ToolCallUpdate("c", "failed")]
    translator.begin_turn()
    assert not list(translator.events(update(status="completed")))
    # A call, rather than an update of one, begins anew.
    again = schema.ToolCall(tool_call_id="c", title="Run again")
    assert [type(each) for each in translator.events(again)] == [ToolCallStarted]


def test_notices_compactions_usage_and_what_is_no_text() -> None:
    image = schema.ImageContent(data="AAAA", mime_type="image/png")
    link = schema.ResourceLink(name="a.py", uri="file:///project/a.py")
    events = told(
        schema.Notice(severity="dire", title="Beware", description="of it"),
        schema.CompactionUpdate(compaction_id="1", status="in_progress"),
        schema.CompactionSummaryChunk(compaction_id="1", content=schema.TextContent(text="what was")),
        schema.CompactionUpdate(compaction_id="1", status="completed"),
        schema.CompactionUpdate(compaction_id="2", status="cancelled"),
        schema.UsageUpdate(used=10, size=100, cost=schema.Cost(amount=2.0, currency="EUR")),
        schema.AgentMessageChunk(content=link),
        update(status="completed", content=[schema.Content(content=image)]),
    )
    assert events == [
        Notice("info", "Beware: of it"),
        Compaction("started"),
        Compaction("completed", "the conversation was shortened", text="what was"),
        Compaction("failed", "cancelled"),
        UsageUpdated(0, 0, context_used=10, context_window=100),
        TextDelta("a.py (/project/a.py)"),
        ToolCallStarted("c", "other", "other", "c"),
        ToolCallUpdate("c", "completed", content=(ImageBlock("image/png", "AAAA"),)),
    ]


def test_what_comes_between_turns_is_bounded_and_keeps_the_newest() -> None:
    incoming = Incoming()
    for number in range(64):
        incoming.put(Notice("info", str(number)))
        incoming.put(TextDelta("x" * (HELD // 16)))
    events = incoming.drain()
    assert events[-2:] == [Notice("info", "63"), TextDelta("x" * (HELD // 16))]
    assert sum(len(event.text) for event in events) <= HELD  # type: ignore[attr-defined]
