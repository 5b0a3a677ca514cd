"""Whole turns in the interactive face: what is seen first, an answer as it streams, work, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_server import ModelServer, delay, reasoning, stream, text, tool_call
from tests.terminal import snapshots
from tests.terminal.conftest import StartChat

ANSWER = """\
# What I found

The parser reads **one token** at a time, so `peek()` is *never* more than one ahead. That costs little and keeps the \
whole of it in one function that somebody can read in a minute.

1. `lexer.py` makes the tokens
2. `parser.py` makes the tree
   - by recursive descent

```python
def peek(self) -> Token:
    return self.tokens[self.at]  # no copy
```

| part | lines |
|------|------:|
| lexer | 120 |
| parser | 340 |

> Nothing here is final.

That is all.
"""


def test_the_first_screen(chat: StartChat, workspace: Path) -> None:
    first = chat()
    snapshots.check("first_screen", first.tty.history(), workspace)
    assert first.tty.cursor[1] == 2
    assert first.tty.modes.bracketed_paste
    assert not first.tty.modes.alternate_screen
    assert not first.tty.modes.mouse
    first.leave()
    assert first.tty.history()[-1].startswith("sandbox")


@pytest.mark.parametrize("how", ["\x03\x03", pytest.param("/quit\r", marks=pytest.mark.slow)])
def test_other_ways_to_leave(chat: StartChat, how: str) -> None:
    leaving = chat()
    leaving.tty.send(how)
    leaving.ended()


def test_a_streamed_answer(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply([reasoning("The person asks how it is parsed. I look at the parser."), text(ANSWER, pieces=90)])
    reading = chat()
    reading.ask("how does it parse?", "That is all.")
    snapshots.check("streamed_answer", reading.tty.history(), workspace)
    for said in ("What I found", "one token", "120", "Nothing here is final."):
        assert reading.count(said) == 1
    reading.leave()
    assert reading.count("That is all.") == 1


def test_what_is_open_shows_while_it_streams(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(stream(text("The first line of it", pieces=1), delay(30), text(" goes on.")))
    reading = chat()
    reading.send("go")
    reading.tty.wait_for("The first line of it")
    reading.tty.wait_for(lambda _: "1 s" in reading.status)
    reading.tty.send("\x1b")
    reading.idle()
    assert reading.count("The first line of it") == 1
    reading.leave()


@pytest.mark.slow
def test_an_answer_longer_than_the_screen_is_all_in_the_scrollback(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("".join(f"Line {number} of many.\n\n" for number in range(80)), pieces=200))
    reading = chat(rows=15)
    reading.ask("many", "Line 79 of many.")
    rows = [row for row in reading.tty.history() if row.startswith("Line ")]
    assert rows == [f"Line {number} of many." for number in range(80)]
    reading.leave()
    assert [row for row in reading.tty.history() if row.startswith("Line ")] == rows


def test_work_with_a_diff_a_command_and_its_failure(
    chat: StartChat, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "calc.py").write_text("def add(a, b):\n    return a - b\n\n\ndef sub(a, b):\n    return a - b\n")
    model_server.reply(
        [text("I look at it."), tool_call("read", {"path": "calc.py"})],
        tool_call(
            "edit",
            {"path": "calc.py", "old": "def add(a, b):\n    return a - b", "new": "def add(a, b):\n    return a + b"},
        ),
        tool_call("shell", {"command": "echo one; echo two; exit 3"}),
        text("The sum is right now."),
    )
    working = chat("--approve", "all", rows=40)
    working.ask("fix add", "The sum is right now.")
    snapshots.check("work", working.tty.history(), workspace)
    working.leave()


def test_a_plan_is_ticked_off(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    def plan(*states: str) -> object:
        names = ("read the parser", "change it", "run the tests")
        entries = [{"content": name, "status": state} for name, state in zip(names, states, strict=True)]
        return tool_call("plan", {"steps": entries})

    model_server.reply(
        plan("in_progress", "pending", "pending"), plan("completed", "in_progress", "pending"), text("Half way.")
    )
    planning = chat("--approve", "all")
    planning.ask("plan it", "Half way.")
    snapshots.check("plan", planning.tty.history(), workspace)
    planning.leave()


def test_a_thought_unfolds(chat: StartChat, model_server: ModelServer) -> None:
    thought = " ".join(f"word{number}" for number in range(150))
    model_server.reply([reasoning(thought), text("Thought about it.")])
    thinking = chat()
    thinking.ask("think", "Thought about it.")
    assert thinking.count("word75") == 0
    thinking.tty.send("\x0f")
    thinking.tty.wait_for("word149")
    assert thinking.count("word75") == 1
    thinking.leave()


def test_resuming_shows_what_was_said(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply([reasoning("I remember."), text("The number is **17**.")], text("Still 17."))
    before = chat()
    before.ask("a number", "The number is 17.")
    before.leave()
    again = chat("--continue")
    again.tty.wait_for("The number is 17.")
    snapshots.check("resumed", again.tty.history(), workspace)
    again.ask("and now?", "Still 17.")
    again.leave()
    roles = [message["role"] for message in model_server.chats[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
