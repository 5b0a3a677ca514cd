"""The interactive face in screens of other sizes, and in one that changes while an answer streams.

Terminals of today wrap their rows anew when they become narrower, also those below; xterm cuts them off. Whatever it
does, what is finished stands there once, and no second input line is left behind.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.model_server import ModelServer, delay, stream, text, tool_call
from tests.terminal import snapshots
from tests.terminal.conftest import StartChat
from tests.terminal.driving import MARK, Chat

LINES = [f"Line {number:02} says something that fits." for number in range(12)]


def slow_lines(server: ModelServer) -> None:
    """An answer of many paragraphs that takes two seconds."""
    parts = [part for line in LINES for part in (text(line + "\n\n", pieces=3), delay(0.15))]
    server.reply(stream(*parts, text("It ends here.")))


def in_order(chat: Chat) -> None:
    """Each finished line stands once, in order, and there is one input line and one status line."""
    rows = chat.tty.history()
    joined = "\n".join(rows)
    assert [joined.count(line) for line in LINES] == [1] * len(LINES), joined
    assert sum(row.startswith(f"{MARK} ") or row == MARK for row in rows) == 1, joined
    assert joined.count("asks first") <= 1, joined


@pytest.mark.parametrize("reflow", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_resized_in_mid_stream(chat: StartChat, model_server: ModelServer, reflow: bool) -> None:
    slow_lines(model_server)
    reading = chat(reflow=reflow, **({} if reflow else {"XTERM_VERSION": "XTerm(390)"}))
    reading.send("go")
    reading.tty.wait_for(LINES[0])
    for rows, columns in ((20, 60), (30, 44), (24, 100), (12, 72), (24, 80)):
        reading.tty.resize(rows, columns)
        time.sleep(0.25)
    reading.tty.wait_for("It ends here.", where="history")
    reading.idle()
    in_order(reading)
    reading.leave()


def test_resized_while_one_types(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Heard."))
    typing = chat()
    words = "a prompt that is long enough to take more than one row of a narrow screen"
    typing.tty.send(words)
    typing.tty.wait_for("narrow screen")
    for columns in (50, 30, 64, 120):
        typing.tty.resize(24, columns)
        typing.tty.settle(0.3, 2)
        assert typing.count("a prompt that") == 1, typing.tty.frame()
    assert typing.count("a prompt that") == 1
    assert typing.line == f"> {words}"
    typing.ask("", "Heard.")
    typing.leave()


@pytest.mark.slow
def test_resized_at_a_question(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(tool_call("shell", {"command": "touch one && touch two && touch three"}), text("As you wish."))
    asking = chat()
    asking.send("go")
    asking.asked()
    asking.tty.resize(20, 45)
    asking.tty.settle(0.3, 2)
    asking.tty.resize(24, 90)
    asking.tty.settle(0.3, 2)
    assert asking.count("? May it run this?") == 1
    asking.press("n")
    asking.tty.wait_for("As you wish.")
    asking.idle()
    assert asking.count("May it run") == 0
    asking.leave()


@pytest.mark.parametrize(("rows", "columns"), [(15, 40), pytest.param(50, 200, marks=pytest.mark.slow)])
def test_narrow_and_wide(chat: StartChat, model_server: ModelServer, workspace: Path, rows: int, columns: int) -> None:
    (workspace / "calculator.py").write_text("def add(first, second):\n    return first - second\n")
    model_server.reply(
        [
            text("I will **change** it in `calculator.py`, where the sign is wrong."),
            tool_call("read", {"path": "calculator.py"}),
        ],
        tool_call("edit", {"path": "calculator.py", "old": "return first - second", "new": "return first + second"}),
        text("| name | what it does |\n|---|---|\n| add | gives the sum of two numbers |\n\nDone with it."),
    )
    shown = chat(rows=rows, columns=columns)
    shown.send("make add right")
    shown.asked()
    snapshots.check(f"question_{columns}_columns", shown.tty.screen(), workspace)
    while "then allow" in shown.tty.text():
        shown.press("\x1b[6~")
        shown.tty.settle(0.1, 1)
    shown.press("y")
    shown.tty.wait_for("Done with it.")
    shown.idle()
    snapshots.check(f"turn_{columns}_columns", shown.tty.history(), workspace)
    shown.leave()


@pytest.mark.slow
def test_a_screen_smaller_than_anything_can_be_drawn_in(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("Hello there, small one."))
    small = chat(rows=24, columns=80)
    small.tty.resize(3, 12)
    small.tty.settle(0.2, 1)
    small.send("hi")
    small.tty.wait_for(lambda _: "small" in "".join(small.tty.history()))
    small.tty.resize(24, 80)
    small.idle()
    small.leave()
