"""The conversation as rows: what a person sees of whole turns, finished and open, at three widths."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.segment import Segment

from laguna_agent.agent.events import (
    Checkpoint,
    Forked,
    ModelProgress,
    PermissionRequested,
    PermissionResolved,
    Redone,
    Rewound,
    Steered,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
    TurnStarted,
    UsageUpdated,
    UserMessage,
)
from laguna_agent.messages import FileDiff, TextBlock
from laguna_agent.terminal.theme import THEMES
from tests.terminal.scenes import FAILURE, fix, history, plain, plan, shell, transcript, troubles
from tests.terminal.snapshots import check


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_whole_turn(width: int) -> None:
    rows = history(list(fix()), width)
    assert max(map(cell_len, rows)) <= width
    check(f"transcript_fix_{width}", rows, exact=True)


@pytest.mark.parametrize("width", [40, 80])
def test_what_goes_wrong_is_said(width: int) -> None:
    check(f"transcript_troubles_{width}", history(list(troubles()), width), exact=True)


def test_the_turn_while_it_runs() -> None:
    """The live part beside what is in the history, at some moments."""
    shown = transcript()
    events = list(fix())
    told: list[str] = []
    seconds = 0.0
    for event in events:
        seconds += 0.5
        shown.tick(seconds)
        shown.feed(event)
        told += [f"--- {type(event).__name__}", *plain(shown.finished())]
        told += [f"    ~ {row}" for row in plain(shown.live(12))]
    check("transcript_frames", told, exact=True)


def test_a_running_command_shows_its_last_rows_and_time() -> None:
    shown = transcript()
    shown.tick(10)
    shown.feed(TurnStarted(1, "s", "m"))
    shown.feed(ToolCallStarted("1", "shell", "execute", "$ make", {}))
    shown.finished()
    for number in range(40):
        shown.feed(ToolCallUpdate("1", "in_progress", f"step {number}\r\n"))
    shown.feed(ToolCallUpdate("1", "in_progress", "10 %\r20 %\r30 %"))
    shown.tick(14.2)
    assert shown.finished() == []
    rows = plain(shown.live(20))
    assert rows[0].endswith("$ make · 4 s")
    assert rows[1:] == ["  │ step 36", "  │ step 37", "  │ step 38", "  │ step 39", "  │ 30 %"]
    assert len(shown.live(3)) == 3


def test_calls_at_once_stand_in_the_order_in_which_they_began() -> None:
    shown = transcript()
    for call_id in "ab":
        shown.feed(ToolCallStarted(call_id, "shell", "execute", f"$ {call_id}", {}))
    shown.feed(ToolCallUpdate("b", "completed", content=(TextBlock("(no output)\n[exit code 0]"),), exit_code=0))
    assert shown.finished() == []
    assert [row[2:] for row in plain(shown.live(10))] == ["$ a", "$ b · exit 0"]
    shown.feed(ToolCallUpdate("a", "completed", exit_code=0))
    assert plain(shown.finished()) == ["● $ a · exit 0", "● $ b · exit 0"]
    assert shown.live(10) == []


def test_a_call_that_is_named_anew_goes_on() -> None:
    """Other agents tell what a call does once they know it."""
    shown = transcript()
    shown.feed(ToolCallStarted("1", "x", "other", "Terminal", {}))
    shown.feed(ToolCallUpdate("1", "in_progress", "one\n"))
    shown.finished()
    shown.tick(4)
    shown.feed(TextDelta("beside it"))
    shown.feed(ToolCallStarted("1", "x", "execute", "$ make", {}))
    shown.feed(TextDelta(" more"))
    shown.finished()
    rows = plain(shown.live(9))
    assert rows[0] == "beside it more"
    assert rows[2].endswith("$ make · 4 s")
    assert rows[3] == "  │ one"
    shown.feed(ToolCallUpdate("1", "completed", exit_code=0))
    shown.feed(ToolCallStarted("1", "x", "execute", "$ another", {}))
    shown.feed(ToolCallUpdate("1", "completed", exit_code=0))
    # The open row of a paragraph waits for its end, below the card.
    rows = plain(shown.finished())
    assert rows == ["● $ make · exit 0", "", "beside it more", "", "● $ another · exit 0"]


def test_a_call_that_asks_says_so_and_its_time_begins_with_the_answer() -> None:
    shown = transcript()
    shown.feed(ToolCallStarted("1", "shell", "execute", "$ make", {}))
    shown.feed(PermissionRequested("1", "$ make", "execute", {}, ()))
    shown.finished()
    shown.tick(60)
    shown.finished()
    assert plain(shown.live(5)) == ["? $ make · waits for your answer"]
    assert shown.live(5, besides="1") == []
    assert plain(shown.live(5, besides="2")) == ["? $ make · waits for your answer"]
    shown.feed(PermissionResolved("1", True))
    shown.finished()
    assert plain(shown.live(5))[0].endswith(" $ make")


def test_what_was_folded_can_be_unfolded_the_newest_first() -> None:
    shown = transcript()
    for event in shell("1", "pytest -q", FAILURE, 1):
        shown.feed(event)
    shown.feed(ThoughtDelta("one two three\n" * 30))
    shown.feed(TextDelta("so"))
    rows = plain(shown.finished())
    assert "  … 26 more lines (ctrl-o unfolds)" in rows
    assert "· thought for 90 words (ctrl-o unfolds)" in rows
    assert sum("one two three" in row for row in plain(shown.unfold())) == 30
    unfolded = plain(shown.unfold())
    assert unfolded[0] == "$ pytest -q"
    assert len(unfolded) == 32
    assert shown.unfold() == []


def test_a_thought_shows_its_last_rows_while_it_goes_on() -> None:
    shown = transcript(40)
    shown.feed(ThoughtDelta("".join(f"thought number {number}\n" for number in range(50))))
    shown.finished()
    assert plain(shown.live(20)) == ["· thinking", *(f"  thought number {number}" for number in (47, 48, 49))]


def test_progress_is_shown_after_a_second() -> None:
    shown = transcript()
    shown.feed(ModelProgress("reading", "m", 100, 1_000))
    shown.finished()
    shown.tick(0.5)
    assert shown.live(5) == []
    shown.tick(1.5)
    shown.feed(ModelProgress("reading", "m", 500, 1_000))
    shown.finished()
    (row,) = plain(shown.live(5))
    assert row[2:] == "reading 500 of 1,000 tokens  " + "━" * 12 + "─" * 12 + " 50 %"
    shown.feed(TextDelta("hello "))
    shown.finished()
    assert plain(shown.live(5)) == ["hello"]


def test_the_plan_is_live_and_goes_into_the_history_once() -> None:
    shown = transcript()
    shown.feed(TurnStarted(1, "s", "m"))
    shown.feed(plan())
    shown.feed(TextDelta("I begin.\n\nThen"))
    assert plain(shown.finished()) == ["I begin.", ""]
    assert plain(shown.live(20)) == [
        *("Then", "", "Plan  0 of 3 done", "  [>] Read the test", "  [ ] Fix the sign", "  [ ] Run the tests")
    ]
    shown.feed(plan("Read the test"))
    shown.feed(TurnEnded("end_turn", "completed", 0))
    assert plain(shown.finished())[:4] == ["Then", "", "Plan  1 of 3 done", "  [x] Read the test"]
    shown.feed(TurnStarted(2, "s", "m"))
    shown.feed(TurnEnded("end_turn", "completed", 0))
    assert shown.finished() == []


def test_a_word_into_the_turn_is_the_persons() -> None:
    shown = transcript()
    shown.feed(TurnStarted(1, "s", "m"))
    shown.feed(TextDelta("I go on"))
    shown.feed(Steered("use tabs"))
    shown.feed(TextDelta("with tabs"))
    shown.feed(TurnEnded("end_turn", "completed", 0))
    assert plain(shown.finished()) == ["I go on", "", "› use tabs", "", "with tabs"]


def test_a_cancelled_turn_leaves_no_call_open() -> None:
    rows = history(
        [
            TurnStarted(1, "s", "m"),
            ToolCallStarted("1", "shell", "execute", "$ sleep 100", {}),
            TurnEnded("cancelled", "cancelled", 130, "interrupted"),
        ]
    )
    assert rows == ["● $ sleep 100 · not finished", "", "■ cancelled"]


def test_what_happened_to_the_conversation_is_said() -> None:
    rows = history([Rewound(2, "old prompt", ("a.py",)), Redone(), Forked("s-2"), Checkpoint("t"), UsageUpdated(1, 2)])
    assert rows == [
        "· took back 2 prompts; files put back: a.py",
        "· what was taken back is there again",
        "· copied into session s-2",
    ]


def test_an_end_says_its_reason_once() -> None:
    assert history([TurnEnded("error", "denied", 7, "denied, and it could not go on")]) == [
        "■ denied, and it could not go on"
    ]
    assert history([TurnEnded("error", "provider_error", 3, "no answer")]) == ["■ provider error: no answer"]


def test_what_a_command_of_the_person_prints_is_shown_as_it_comes() -> None:
    shown = transcript(20)
    shown.said("!ls")
    shown.printed("one\ntw")
    assert plain(shown.finished()) == ["› !ls", "", "one"]
    assert plain(shown.live(5)) == ["tw"]
    shown.printed("o\n10 %\r20 %\r\n" + "long " * 8 + "\n\x1b[2Jend")
    assert plain(shown.finished()) == ["two", "20 %", "long " * 4, "long " * 4]
    shown.insert([(Segment("exit 0"),)])
    assert plain(shown.finished()) == ["\\u{1B}[2Jend", "", "exit 0"]
    assert shown.live(5) == []


def test_a_turn_that_broke_off_leaves_nothing_open() -> None:
    shown = transcript()
    shown.feed(TurnStarted(1, "s", "m"))
    shown.feed(TextDelta("half a"))
    shown.finished()
    shown.settle()
    assert plain(shown.finished()) == ["half a"]
    assert shown.live(5) == []


def test_a_long_prompt_is_folded() -> None:
    shown = transcript()
    shown.said("".join(f"line {number}\n" for number in range(400)))
    rows = plain(shown.finished())
    assert len(rows) == 11
    assert rows[-1] == "  … 400 lines in all (ctrl-o unfolds)"
    assert len(shown.unfold()) == 400


def test_nothing_of_theirs_reaches_the_terminal_raw() -> None:
    bad = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\r\x9b31m"
    events = [
        UserMessage(bad),
        TurnStarted(1, "s", "m"),
        ThoughtDelta(bad * 30),
        TextDelta(f"{bad} `{bad}` [{bad}]({bad})\n\n```py\n{bad}\n```\n| {bad} |\n|---|\n| {bad} |\n"),
        ToolCallStarted("1", bad, "execute", bad, {}),
        ToolCallUpdate("1", "in_progress", bad),
        ToolCallUpdate(
            "1", "failed", content=(TextBlock(bad),), diffs=(FileDiff(bad, bad, "x"),), exit_code=1, sandbox=bad
        ),
        TurnEnded("error", bad, 1, bad, files_changed=(bad,), evidence="unverified", evidence_note=bad),
    ]
    shown = transcript()
    text = ""
    for event in events:
        shown.feed(event)
        text += "".join([*plain(shown.finished()), *plain(shown.live(20))])
    while rows := shown.unfold():
        text += "".join(plain(rows))
    assert "owned" in text
    assert not [character for character in text if not character.isprintable()]


def test_failures_look_like_failures() -> None:
    shown = transcript()
    for event in [*shell("1", "false", "", 1), *shell("2", "true", "", 0)]:
        shown.feed(event)
    failed, passed = shown.finished()
    assert failed[0].style == THEMES["dark"].style("error")
    assert passed[0].style == THEMES["dark"].style("ok")


def test_another_width_holds_for_what_comes() -> None:
    shown = transcript(80)
    shown.feed(TextDelta("word " * 40))
    rows = shown.finished()
    shown.width = 30
    shown.feed(TextDelta("word " * 40))
    rows = shown.finished()
    assert rows
    assert max(cell_len(row) for row in plain(rows)) <= 30
    assert max(cell_len(row) for row in plain(shown.live(5))) <= 30


def test_it_is_dirty_only_when_something_changed() -> None:
    shown = transcript()
    assert not shown.dirty
    shown.feed(TextDelta("hello"))
    assert shown.dirty
    shown.finished()
    first = shown.live(5)
    assert not shown.dirty
    shown.tick(5)
    assert not shown.dirty
    assert shown.live(5) == first
