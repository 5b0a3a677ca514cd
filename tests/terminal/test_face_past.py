"""Taking back, copies and other sessions, in the interactive face."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_server import ModelServer, text, tool_call
from tests.terminal import snapshots
from tests.terminal.conftest import StartChat


def roles(server: ModelServer) -> list[str]:
    return [message["role"] for message in server.chats[-1]["messages"]]


def test_rewinding_by_choice_puts_files_and_the_prompt_back(
    chat: StartChat, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "a.txt").write_text("old\n")
    model_server.reply(
        text("First."),
        tool_call("write", {"path": "b.txt", "content": "new\n"}),
        text("Second."),
        text("Third."),
    )
    taking = chat("--approve", "all", rows=30)
    taking.ask("one", "First.")
    taking.ask("two, with a file", "Second.")
    assert (workspace / "b.txt").exists()
    taking.send("/rewind")
    taking.tty.wait_for("two, with a file")
    taking.tty.settle(0.2, 2)
    snapshots.check("rewind_choice", taking.tty.screen(), workspace)
    taking.press("\r")
    taking.tty.wait_for("took back")
    taking.tty.wait_for(lambda _: taking.line == "> two, with a file")
    assert not (workspace / "b.txt").exists()
    taking.ask(" again", "Third.")
    assert roles(model_server) == ["system", "user", "assistant", "user"]
    taking.leave()


def test_an_undo_and_its_redo(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("write", {"path": "b.txt", "content": "new\n"}), text("Written."))
    taking = chat("--approve", "all")
    taking.ask("write", "Written.")
    taking.send("/undo")
    taking.tty.wait_for("took back")
    taking.idle()
    assert not (workspace / "b.txt").exists()
    taking.tty.send("\x15")
    taking.send("/redo")
    taking.tty.wait_for("what was taken back is there again")
    taking.idle()
    assert (workspace / "b.txt").read_text() == "new\n"
    taking.leave()


@pytest.mark.slow
def test_a_copy_and_the_way_back_to_the_origin(chat: StartChat, model_server: ModelServer) -> None:
    model_server.reply(text("First."), text("In the copy."), text("In the origin."))
    leading = chat(rows=40)
    leading.ask("one", "First.")
    leading.send("/fork")
    leading.tty.wait_for("You are in")
    leading.idle()
    leading.ask("two", "In the copy.")
    leading.send("/resume")
    leading.tty.wait_for("session")
    leading.tty.settle(0.2, 2)
    leading.press("\x1b")
    leading.idle()
    leading.leave()


def test_what_was_changed_is_shown(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("one\ntwo\n")
    model_server.reply(
        tool_call("read", {"path": "a.txt"}),
        tool_call("edit", {"path": "a.txt", "old": "two", "new": "three"}),
        text("Changed."),
    )
    showing = chat("--approve", "all", rows=40)
    showing.ask("change it", "Changed.")
    showing.send("/diff")
    showing.idle()
    showing.tty.wait_for(lambda _: showing.count("+three") == 1)
    showing.send("/context")
    showing.tty.wait_for("results of tools")
    showing.idle()
    showing.send("/usage")
    showing.tty.wait_for("since the session began")
    showing.idle()
    snapshots.check("diff_context_usage", showing.tty.history(), workspace)
    showing.leave()
