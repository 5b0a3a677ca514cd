"""A turn that runs in the interactive face: ended, spoken to, and what waits for its end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.aftermath import require_outcome
from tests.model_server import ModelServer, delay, stall, stream, text, tool_call
from tests.processes import commands_in
from tests.terminal.conftest import StartChat, StartTty
from tests.terminal.driving import Chat


@pytest.mark.parametrize("key", ["\x1b", pytest.param("\x03", marks=pytest.mark.slow)])
def test_a_turn_is_ended_by_a_key(chat: StartChat, model_server: ModelServer, workspace: Path, key: str) -> None:
    model_server.reply(
        stream(text("half an answer\n\n"), stall()), tool_call("shell", {"command": "sleep 300"}), text("Fine.")
    )
    working = chat("--approve", "all")
    working.send("one")
    working.tty.wait_for("half an answer")
    working.press(key)
    working.tty.wait_for("interrupted", where="history")
    working.idle()
    working.send("two")
    working.tty.wait_for("$ sleep 300")
    working.tty.wait_for(lambda _: commands_in(workspace))
    working.press(key)
    working.idle()
    assert not commands_in(workspace)
    working.ask("three", "Fine.")
    working.leave()


def test_what_is_typed_while_it_works_is_said_into_the_turn(
    chat: StartChat, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(
        tool_call("shell", {"command": "while [ ! -e go ]; do sleep 0.05; done; echo ready"}), text("Both done.")
    )
    working = chat("--approve", "all")
    working.send("first")
    working.tty.wait_for("$ while")
    working.send("use tabs please")
    working.tty.wait_for("goes to the model with its next request: use tabs please")
    (workspace / "go").write_text("")
    working.tty.wait_for("Both done.")
    working.idle()
    assert len(model_server.chats) == 2
    assert "use tabs please" in json.dumps(model_server.chats[1]["messages"])
    assert working.count("use tabs please") == 1
    working.leave()


def test_what_waits_is_shown_and_comes_back_after_an_interrupt(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(stream(text("working\n\n"), stall()))
    working = chat()
    working.send("first")
    working.tty.wait_for("working")
    working.send("/context")
    working.tty.wait_for("waits for the end of the turn: /context")
    assert "1 queued" in working.status
    working.press("\x1b")
    working.tty.wait_for("> /context")
    working.tty.send("\x15")
    working.leave()


def test_what_waits_is_done_when_the_turn_has_ended(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(stream(text("working\n\n", pieces=1), delay(0.7), text("done")), text("second answer"))
    working = chat()
    working.send("first")
    working.tty.wait_for("working")
    working.send("!echo he''llo")
    working.tty.wait_for("waits for the end of the turn: !echo")
    working.tty.wait_for("hello")
    working.ask("second", "second answer")
    history = "\n".join(working.tty.history())
    assert history.index("done") < history.index("\nhello") < history.index("second answer")
    working.leave()


def test_prompts_that_come_before_the_session_is_there(tty: StartTty, model_server: ModelServer) -> None:
    model_server.reply(text("Answered."))
    early = tty(**model_server.env)
    # The input line is there before the session is: its status tells no sandbox yet.
    early.wait_for(lambda _: early.screen()[early.cursor[0]] == ">")
    early.send("at once\r")
    early.wait_for("Answered.")
    assert "\n".join(early.history()).count("at once") == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_it_and_what_it_started(
    chat: StartChat, model_server: ModelServer, workspace: Path, number: int
) -> None:
    model_server.reply(tool_call("shell", {"command": "sleep 300"}))
    working = chat("--approve", "all")
    working.send("go")
    working.tty.wait_for(lambda _: commands_in(workspace))
    working.tty.signal(number)
    working.ended(143)
    assert not commands_in(workspace)
    # Why it ended is on record, not that somebody left.
    require_outcome("terminated")


def test_ctrl_z_gives_the_terminal_to_the_shell_and_takes_it_back(
    tty: StartTty, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(text("Still here."))
    shell = tty(command=["bash", "--norc", "--noprofile", "-i"], PS1="ready$ ", **model_server.env)
    shell.wait_for("ready$")
    shell.send(f"{sys.executable} -m laguna_agent\r")
    stopping = Chat(shell, workspace).begin()
    stopping.press("half a prompt", "\x1a")
    shell.wait_for("Stopped")
    shell.send("echo o''k; fg\r")
    shell.wait_for("\nok")
    shell.wait_for(lambda _: stopping.line == "> half a prompt")
    stopping.ask(" more", "Still here.")
    assert "half a prompt more" in str(model_server.chats[-1]["messages"][-1]["content"])
    stopping.press("\x04")
    shell.wait_for(lambda _: stopping.line == "ready$")
    shell.send("echo e''nd\r")
    shell.wait_for("\nend")
