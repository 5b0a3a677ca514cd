"""Conversations as events, for tests of how they look; what the core would send, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from laguna_agent.agent.events import (
    CheckRun,
    Compaction,
    Event,
    Notice,
    PermissionOption,
    PermissionRequested,
    PermissionResolved,
    PlanUpdated,
    Retrying,
    TextDelta,
    ThoughtDelta,
    ToolCallStarted,
    ToolCallUpdate,
    TurnEnded,
    TurnStarted,
    UserMessage,
)
from laguna_agent.messages import FileDiff, Location, PlanEntry, TextBlock, ToolKind
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import THEMES
from laguna_agent.terminal.transcript import Transcript

CWD = Path("/home/someone/project")
BEFORE = "def add(a, b):\n    return a - b\n\n\ndef double(a):\n    return add(a, a)\n"
AFTER = BEFORE.replace("a - b", "a + b")
ANSWER = """The sign in `add` is **wrong**. I changed it:

```python
def add(a, b):
    return a + b
```

1. `src/calc.py` adds again
2. the tests pass
"""
FAILURE = "".join(f"tests/test_calc.py line {number}\n" for number in range(1, 31)) + "1 failed\n[exit code 1]"


def transcript(width: int = 80, theme: str = "dark") -> Transcript:
    return Transcript(THEMES[theme], width, cwd=CWD)


def plain(lines: Sequence[Line]) -> list[str]:
    return ["".join(segment.text for segment in line) for line in lines]


def history(events: Sequence[Event], width: int = 80) -> list[str]:
    """What stands in the history after the events, each drawn as a frame of its own."""
    shown = transcript(width)
    rows: list[Line] = []
    for event in events:
        shown.feed(event)
        rows += shown.finished()
        shown.live(20)
    shown.settle()
    return plain([*rows, *shown.finished()])


def shell(
    call_id: str, command: str, output: str, exit_code: int = 0, seconds: float = 0.4, sandbox: str = "bubblewrap"
) -> Iterator[Event]:
    yield ToolCallStarted(call_id, "shell", "execute", f"$ {command}", {"command": command})
    yield ToolCallUpdate(call_id, "in_progress")
    content = (TextBlock(output),)
    yield ToolCallUpdate(call_id, "completed", "", content, exit_code=exit_code, seconds=seconds, sandbox=sandbox)


def looked(call_id: str, name: str, kind: ToolKind, title: str, result: str) -> Iterator[Event]:
    yield ToolCallStarted(call_id, name, kind, title)
    yield ToolCallUpdate(call_id, "completed", content=(TextBlock(result),), seconds=0.01)


def edited(call_id: str, note: str = "") -> Iterator[Event]:
    where = (Location("src/calc.py", 2),)
    yield ToolCallStarted(call_id, "edit", "edit", "Edit src/calc.py", {}, where)
    yield ToolCallUpdate(
        call_id,
        "completed",
        content=(TextBlock(f"Edited src/calc.py, line 2.{note}"),),
        diffs=(FileDiff("src/calc.py", BEFORE, AFTER),),
        locations=where,
        seconds=0.02,
    )


def plan(*done: str) -> PlanUpdated:
    steps = ("Read the test", "Fix the sign", "Run the tests")
    following = next((step for step in steps if step not in done), "")
    states = {
        step: "completed" if step in done else "in_progress" if step == following else "pending" for step in steps
    }
    return PlanUpdated(tuple(PlanEntry(step, states[step]) for step in steps))  # type: ignore[arg-type]


def fix() -> Iterator[Event]:
    """A whole turn: a thought, looking, a failing test, an edit, a passing test, the answer."""
    yield UserMessage("fix the failing test in src/calc.py")
    yield TurnStarted(1, "20260101-000000-abcd", "laguna", "bubblewrap")
    yield ThoughtDelta("The test calls add and double. Subtraction instead of addition would explain the failure, ")
    yield ThoughtDelta("so I should read the file first and then run the test to see it fail.")
    yield plan()
    yield TextDelta("I'll look at the file and the test.")
    yield from looked("1", "read", "read", f"Read {CWD}/src/calc.py", "1: def add\n2: return\n3:\n")
    yield from looked("2", "grep", "search", "Search 'add' in tests", "tests/test_calc.py:3: add(2, 2)")
    yield from shell("3", "pytest -q", FAILURE, 1, 3.24)
    yield plan("Read the test")
    yield from edited("4")
    yield from shell("5", "pytest -q", "..\n2 passed in 0.01s\nslowest: none\n[exit code 0]", 0, 0.4)
    yield plan("Read the test", "Fix the sign", "Run the tests")
    yield TextDelta(ANSWER)
    yield TurnEnded("end_turn", "completed", 0, turns=4, files_changed=("src/calc.py",), evidence="verified")


def troubles() -> Iterator[Event]:
    """What goes wrong: an attempt, a call that is refused, a failing tool, a note of the history, the end."""
    yield UserMessage("clean up\n\nall of it")
    yield TurnStarted(2, "20260101-000000-abcd", "laguna", "none")
    yield TextDelta("I will remo")
    yield Retrying(1, 0.5, "busy (503)", void=True)
    yield ToolCallStarted("1", "shell", "execute", "$ rm -rf build && git clean -fdx", {})
    yield PermissionRequested(
        "1", "$ rm -rf build && git clean -fdx", "execute", {}, (PermissionOption("y", "allow_once", "this once"),)
    )
    yield PermissionResolved("1", False, "not the git part")
    yield ToolCallUpdate("1", "failed", content=(TextBlock("Denied: not the git part. Do not repeat it."),))
    yield ToolCallStarted("2", "edit", "edit", "Edit src/calc.py", {})
    yield ToolCallUpdate("2", "failed", content=(TextBlock("`old` is nowhere in src/calc.py.\nClosest: line 2."),))
    yield Compaction("started")
    yield Compaction("completed", "4 old results became a line each", 90_000, 12_000, "What was done:\n- this\n- that")
    yield Notice("warning", "the server sends no usage")
    yield Notice("error", "the key was refused")
    checks = (CheckRun("before", "make test", 1), CheckRun("after", "make test", 2))
    yield TurnEnded(
        "error",
        "check_failed",
        8,
        "the check still fails",
        files_changed=("a.py", "b.py", "c.py", "d.py"),
        checks=checks,
        evidence="unverified",
        evidence_note="the last test run failed",
    )
