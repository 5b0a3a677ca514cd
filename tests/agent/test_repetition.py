"""What counts as a loop, and what does not: the guard on its own, and in whole turns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.agent.repetition import FAILURES, LIMIT, WAITS, RepetitionGuard
from laguna_agent.errors import LoopDetected
from laguna_agent.messages import FileDiff, Location, ToolCall
from laguna_agent.tools.base import ToolResult, text_result
from tests.agent.driving import converse, posted, require_valid_conversation, text_of
from tests.model_server import ModelServer, Part, text, tool_call

Step = tuple[ToolCall, ToolResult]


def ran(command: str, output: str = "ok", *touched: str) -> Step:
    places = tuple(Location(path) for path in touched)
    return ToolCall("c", "shell", {"command": command}), text_result(output, exit_code=0, locations=places)


def read(path: str, content: str = "x") -> Step:
    return ToolCall("c", "read", {"path": path}), text_result(content)


def edit(path: str, old: str | None, new: str | None) -> Step:
    call = ToolCall("c", "edit", {"path": path, "old": old, "new": new})
    return call, text_result("Changed.", diffs=(FileDiff(path, old, new),))


def steps_until_stopped(steps: Iterable[Step]) -> int | None:
    """How many calls a guard saw when it stopped; None where it never did."""
    guard = RepetitionGuard()
    for number, (call, result) in enumerate(steps, 1):
        try:
            guard.observe(call, result)
        except LoopDetected:
            return number
    return None


LOOPS: dict[str, tuple[list[Step], int]] = {
    "one call": ([read("a")], LIMIT),
    "two in turn": ([read("a"), read("b")], 9),
    "three in turn": ([read("a"), read("b"), ran("ls")], 12),
    "seven in turn": ([read(each) for each in "abcdefg"], 20),
    "an edit and its reverse": ([edit("a", "1", "2"), edit("a", "2", "1")], 7),
    "with a test in between": ([edit("a", "1", "2"), ran("t", "x"), edit("a", "2", "1"), ran("t", "y")], 13),
    "by way of a third": ([edit("a", "1", "2"), edit("a", "2", "3"), edit("a", "3", "1")], 10),
    "a file made and removed": ([edit("a", None, "2"), edit("a", "2", None)], 7),
    "files that nobody has read": ([ran("sed 1", "", "a"), ran("sed 2", "", "a")], 8),
    "a test that leaves a report": ([ran("pytest", "1 failed", "junit.xml")], 6),
    "the same but for the time": ([ran("pytest", f"1 failed in 0.{n}s") for n in range(10, 30)], 8),
    "an error mended in circles": (
        [(ToolCall("c", "edit", raw="}" * n), text_result("not JSON", is_error=True)) for n in range(20)],
        FAILURES,
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_stopped(name: str) -> None:
    steps, expected = LOOPS[name]
    assert steps_until_stopped(steps * 20) == expected


JOB = ToolCall("c", "shell", {"job": "job-1", "timeout": 5})
HONEST: dict[str, list[Step]] = {
    "tests after each edit": [
        step for n in range(40) for step in (edit("a", str(n), str(n + 1)), ran("pytest -q", "1 failed"))
    ],
    "tests after edits by commands": [
        step for n in range(40) for step in (ran(f"sed -i {n}", "", "a.c"), ran("make", "error"))
    ],
    "a changed file read again": [
        step for n in range(40) for step in (edit("a", str(n), str(n + 1)), read("a", str(n)))
    ],
    "one after the other": [read(f"f{n}") for n in range(200)],
    "a silent build": [(JOB, text_result("[job-1: running]"))] * (WAITS - 1),
    "a server that comes up": [ran("sleep 5; curl localhost", "refused")] * (WAITS - 1),
    "a mutation after the other": [
        step for n in range(30) for step in (edit("a", "", f"m{n}"), ran("t", "killed"), edit("a", f"m{n}", ""))
    ],
    "everything read again": [read(f"f{n}") for _ in range(2) for n in range(50)],
    "four tries of the same": [ran("pytest", "1 failed")] * (LIMIT - 1),
    "denied one after the other": [
        (ToolCall("c", "shell", {"command": f"x{n}"}), text_result("Denied: no.", is_error=True)) for n in range(30)
    ],
    "somebody else edits in between": [edit("a", f"theirs {n}", "ours") for n in range(20)],
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_repetition_goes_on(name: str) -> None:
    assert steps_until_stopped(HONEST[name]) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 3))
def test_every_cycle_ends_soon(cycle: list[int], lead: int) -> None:
    """Whatever the cycle, and whatever came before it: no more than six rounds."""
    before = [read(f"once {n}") for n in range(lead)]
    stopped = steps_until_stopped([*before, *[read(str(each)) for each in cycle] * 12])
    assert stopped is not None
    assert stopped <= lead + 6 * len(cycle)


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_news_are_never_stopped(files: list[str]) -> None:
    """Each call gives what none before it gave: no order of them is a loop."""
    assert steps_until_stopped([read(path, f"line {at}") for at, path in enumerate(files)]) is None


def test_what_the_model_no_longer_sees_may_be_read_again() -> None:
    guard, files = RepetitionGuard(), [read(f"f{n}") for n in range(20)]
    for _ in range(LIMIT - 1):
        for call, result in files:
            guard.observe(call, result)
        guard.forgot()
    with pytest.raises(LoopDetected, match="same read call"):
        guard.observe(*files[0])


def change(path: str, old: str, new: str) -> Part:
    return tool_call("edit", {"path": path, "old": old, "new": new})


def test_edits_that_take_each_other_back(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.py").write_text("x = 1\n")
    model_server.reply(tool_call("read", {"path": "a.py"}))
    for _ in range(10):
        model_server.reply(change("a.py", "x = 1", "x = 2"), change("a.py", "x = 2", "x = 1"))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("loop", 6)
    assert "took back" in spoken.result.message
    assert len(model_server.chats) == 8


def test_calls_in_turn(model_server: ModelServer, workspace: Path) -> None:
    for name in "ab":
        (workspace / name).write_text(name)
    for _ in range(20):
        model_server.reply(tool_call("read", {"path": "a"}), tool_call("read", {"path": "b"}))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("loop", 6)
    assert len(model_server.chats) == 9


def test_a_build_is_waited_for(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "while [ ! -e go ]; do :; done; echo built", "background": True}))
    model_server.reply(*[tool_call("shell", {"job": "job-1", "timeout": 0.05}) for _ in range(12)])
    model_server.reply(tool_call("shell", {"command": "touch go"}), tool_call("shell", {"job": "job-1", "timeout": 20}))
    model_server.reply(text("Built."))
    spoken = converse(model_server, workspace, "x")
    assert spoken.result.exit_code == 0
    assert "built" in text_of(posted(model_server)[-1])
    require_valid_conversation(posted(model_server))


def test_the_same_answer_to_a_failing_check(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("It works."))
    spoken = converse(model_server, workspace, "x", check="echo still broken; exit 3")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("check_failed", 8)
    assert len(model_server.chats) == 3


def test_a_small_model_that_repeats_itself(model_server: ModelServer, workspace: Path) -> None:
    """It gets another question each time, and the same answer to those is not applied again."""
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    model_server.always(text("```python\ndef add(a, b):\n    return a * b\n```"))
    check = "python3 -c 'import add; assert add.add(2, 3) == 5'"
    spoken = converse(model_server, workspace, "Fix add in add.py", check=check, edit_format="symbol")
    assert (spoken.result.outcome, spoken.result.exit_code) == ("check_failed", 8)
    assert len({str(body["messages"]) for body in model_server.chats}) > 2
