"""The judge itself: it lets a proper recording pass, and each of its rules fails on a recording that breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acp.conformance.broken import BROKEN
from tests.acp.conformance.judge import RULES, judge
from tests.acp.conformance.recording import methods, updates
from tests.acp.conformance.spoken import (
    CREATED,
    LEFT,
    RELEASED,
    REPLAYED,
    SAID,
    SHOWN,
    SUMMARY,
    UNHEARD,
    USER,
    Recording,
    S,
    ask,
    ask_prompt,
    call,
    chosen,
    chunk,
    compaction,
    error,
    listed,
    modes,
    moved,
    opened,
    plan,
    question,
    reopened,
    result,
    select,
    stop,
    tell,
    turn,
    update,
)

CHOICES: list[Any] = [
    select(category="mode"),
    select("level"),
    {"id": "f", "name": "F", "type": "boolean", "currentValue": True},
]
PROPER: Recording = [
    *opened(modes=modes(), configOptions=CHOICES),
    update("available_commands_update", availableCommands=[{"name": "x", "description": "X"}]),
    ask_prompt(),
    chunk("Let me", "t", "agent_thought_chunk"),
    plan("one", "two"),
    call(locations=[{"path": "/w/a.py", "line": 1}]),
    question(),
    chosen("y"),
    *CREATED,
    moved("in_progress", **SHOWN),
    *RELEASED,
    moved("completed"),
    call("d"),
    question(2, toolCallId="d"),
    ask(3, "fs/read_text_file", "agent", sessionId=S, path="/a"),
    result(3, {"content": ""}, "client"),
    tell("session/cancel", sessionId=S),
    tell("$/cancel_request", "agent", requestId=2),
    result(2, {"outcome": {"outcome": "cancelled"}}, "client"),
    moved("failed", "d"),
    compaction("in_progress"),
    SUMMARY,
    compaction("completed"),
    stop(reason="cancelled"),
    update("usage_update", used=1, size=2),
    update("notice", severity="info", title="Hi"),
    ask(1, "session/set_mode", sessionId=S, modeId="b"),
    result(1),
    update("config_option_update", configOptions=[select(current="b", category="mode"), *CHOICES[1:]]),
    ask(2, "session/close", sessionId=S),
    result(2),
    ask(3, "session/delete", sessionId="other"),
    result(3),
    ask(4, "_extension"),
    error(4, -32601),
    *listed(5, S, following="2"),
    *listed(6, "s0", cursor="2"),
]


def verdict(recordings: Recording | list[Recording]) -> list[str]:
    """The rules that are broken; one recording or several."""
    several = recordings if isinstance(recordings[0], list) else [recordings]
    faults, _ = judge(several)
    return [fault.rule for fault in faults]


def test_a_proper_conversation_breaks_no_rule() -> None:
    again = reopened(
        "session/load", chunk("Hi", "u", USER), call(), moved("completed"), call("d"), moved("failed", "d")
    )
    running = [ask_prompt(), call("e"), question(7, toolCallId="e"), LEFT, question(8, toolCallId="e")]
    gone = [*again, *running, moved("failed", "e"), stop(reason="cancelled"), {"exit": 0}]
    faults, messages = judge([PROPER, gone])
    assert faults == []
    assert len(messages) == len(PROPER) + len(again) + 6


def test_what_a_client_that_is_gone_does_not_hear_is_no_fault() -> None:
    assert verdict([*turn(*CREATED), ask_prompt("q"), LEFT, UNHEARD]) == []


def test_a_replay_may_come_in_other_pieces() -> None:
    assert verdict([SAID, reopened("session/load", *REPLAYED)]) == []


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_fails_on_a_recording_that_breaks_it(rule: str) -> None:
    assert BROKEN[rule]
    for recordings in BROKEN[rule]:
        found = verdict(recordings)
        assert set(found) == {rule}, (recordings, found)


def test_every_broken_recording_is_about_a_rule() -> None:
    assert BROKEN.keys() == RULES.keys()


def test_the_table_of_methods_is_the_stable_protocol() -> None:
    assert {name for name, method in methods().items() if method.side == "agent"} == {
        "initialize",
        "authenticate",
        "logout",
        "session/new",
        "session/load",
        "session/resume",
        "session/list",
        "session/close",
        "session/delete",
        "session/prompt",
        "session/cancel",
        "session/set_mode",
        "session/set_config_option",
    }
    assert len(updates()) == 14
