"""Questions and lists in the real program, on an emulated terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_server import ModelServer, text, tool_call
from tests.terminal.conftest import StartTty


@pytest.mark.parametrize(("rows", "columns", "number"), [(14, 40, 4), (24, 80, 20)])
def test_a_question_is_seen_whole_before_it_is_allowed(
    tty: StartTty, model_server: ModelServer, rows: int, columns: int, number: int
) -> None:
    lines = [f"echo line {at} >> a" for at in range(number)]
    command = "\n".join([*lines, "echo the very end"])
    model_server.reply(tool_call("shell", {"command": command}), text("All is said."))
    screen = tty("--approve", "ask", rows=rows, columns=columns, **model_server.env)
    screen.wait_for("asks first")
    screen.send("do it\r")
    screen.wait_for("May it run this?")
    seen = []
    while "then allow" in screen.text():
        assert "  r  refuse, and say why" in screen.text() or "[r]" in screen.text(), "the last answer is there too"
        seen.append(screen.text())
        screen.send("y ")
        screen.settle()
    seen.append(screen.text())
    assert all(any(f"{line}\n" in page for page in seen) for line in lines)
    assert any("echo the very end" in page for page in seen)
    assert len(model_server.chats) == 1, "no y counted before"
    screen.send("y")
    screen.wait_for("All is said.")
    result = model_server.chats[-1]["messages"][-1]["content"]
    assert "the very end" in result


def test_the_persons_reason_reaches_the_model(tty: StartTty, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "one\n"}), text("Another way then."))
    screen = tty("--approve", "ask", **model_server.env)
    screen.wait_for("asks first")
    screen.send("do it\r")
    screen.wait_for("May it change this?")
    screen.send("r")
    screen.wait_for("deny: what should it do instead?")
    screen.send("yes, but into b.txt\r")
    screen.wait_for("Another way then.")
    result = model_server.chats[-1]["messages"][-1]["content"]
    assert result == "Denied: the person refused and says: yes, but into b.txt. Do not repeat it."
    assert not (workspace / "a.txt").exists()


def test_a_mode_is_chosen_from_the_list(tty: StartTty, model_server: ModelServer) -> None:
    screen = tty("--approve", "ask", **model_server.env)
    screen.wait_for("asks first")
    screen.send("/mode\r")
    screen.wait_for("> ask")
    screen.send("\x1b[A\r")
    screen.wait_for("plans only")
    screen.send("/plan\r")
    screen.wait_for("asks first")
    screen.send("/nothing\r")
    screen.wait_for("unknown command /nothing")


def test_what_was_typed_before_the_program_was_there_is_sent(tty: StartTty, model_server: ModelServer) -> None:
    model_server.reply(text("Here I am."))
    screen = tty(**model_server.env)
    # The terminal still makes a line feed of Enter.
    screen.send("hello\r")
    screen.wait_for("Here I am.")
    assert model_server.chats[-1]["messages"][-1]["content"].startswith("hello")
