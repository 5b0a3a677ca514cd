"""The chat in a real terminal."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Terminal
from tests.model_server import ModelServer, stall, stream, text, tool_call
from tests.processes import commands_in

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
PROMPT = r"> "


@pytest.fixture
def chat(terminal: Terminal, model_server: ModelServer) -> Terminal:
    """The program on a pseudo-terminal, with the scripted model."""
    return lambda *arguments, **env: terminal(*arguments, **(model_server.env | env))


def leave(child: pexpect.spawn[str]) -> None:
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before


def test_a_conversation(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("First answer."), text("Second answer."))
    child = chat()
    child.expect("test-model in .*workspace; /help for help")
    child.expect(PROMPT)
    child.sendline("one")
    child.expect("First answer.")
    child.expect(PROMPT)
    child.sendline("two")
    child.expect("Second answer.")
    child.expect(PROMPT)
    child.sendline("/usage")
    child.expect("20 tokens in")
    child.expect(PROMPT)
    leave(child)
    said = [message["role"] for message in model_server.chats[-1]["messages"]]
    assert said == ["system", "user", "assistant", "user"]


def test_prompts_of_earlier_chats_are_there_again(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("First answer."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("one")
    child.expect("First answer.")
    child.expect(PROMPT)
    # As when it is killed: what was sent is kept by then.
    child.kill(signal.SIGKILL)
    child = chat()
    child.expect(PROMPT)
    child.send("\x10")
    child.expect("one")
    child.sendline("\x15/quit")
    child.expect(pexpect.EOF)


def test_what_was_taken_back_can_be_changed(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("First answer."), text("Second answer."), text("Third answer."))
    child = chat()
    for prompt, answer in (("one", "First answer."), ("two and a bit", "Second answer.")):
        child.expect(PROMPT)
        child.sendline(prompt)
        child.expect(answer)
    child.expect(PROMPT)
    child.sendline("/rewind")
    child.expect("No files had to be put back.")
    child.expect("> two and a bit")
    child.sendline(" more")
    child.expect("Third answer.")
    child.expect("> $")
    leave(child)
    *_, answer, question = model_server.chats[-1]["messages"]
    assert answer["content"] == "First answer."
    assert question["content"].startswith("two and a bit more")
    assert len(model_server.chats[-1]["messages"]) == 4


def test_files_go_back_and_the_persons_own_change_is_shown_first(
    chat: Terminal, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "b.txt").write_text("old\n")
    changes = [tool_call("write", {"path": "a.txt", "content": "agent\n"}), tool_call("shell", {"command": "rm b.txt"})]
    model_server.reply(*changes, text("First answer."))
    child = chat("--approve", "all")
    child.expect(PROMPT)
    child.sendline("one")
    child.expect("First answer.")
    child.expect("> $")
    (workspace / "a.txt").write_text("agent\nand I\n")
    child.sendline("/undo")
    child.expect("Overwrite what was changed since in a.txt")
    child.expect("-and I")
    child.expect(r"\? $")
    child.sendline("n")
    child.expect("Nothing was changed: a.txt changed since")
    child.expect("> $")
    assert (workspace / "a.txt").read_text() == "agent\nand I\n"
    child.sendline("/undo")
    child.expect(r"\? $")
    child.sendline("y")
    child.expect("Put back a.txt, b.txt.")
    child.expect("> one")
    assert not (workspace / "a.txt").exists()
    assert (workspace / "b.txt").read_text() == "old\n"
    child.sendline("\x15/redo")
    child.expect("What you had taken back is there again. Put back a.txt, b.txt.")
    child.expect(PROMPT)
    leave(child)
    assert (workspace / "a.txt").read_text() == "agent\nand I\n"
    assert not (workspace / "b.txt").exists()


def test_several_lines_that_were_taken_back(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("First answer."), text("Second answer."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("one\\")
    child.expect("[.] $")
    child.sendline("more")
    child.expect("First answer.")
    child.expect(PROMPT)
    child.sendline("/rewind")
    child.expect("No files had to be put back.")
    child.expect("> .*more")
    child.sendline("!")
    child.expect("Second answer.")
    child.expect(PROMPT)
    leave(child)
    assert model_server.chats[-1]["messages"][-1]["content"].startswith("one\nmore!\n")


def test_a_copy_goes_on_in_the_chat(chat: Terminal, model_server: ModelServer) -> None:
    from laguna_agent.agent.archive import list_sessions

    model_server.reply(text("First answer."), text("Second answer."), text("Third answer."))
    child = chat("--approve", "all")
    child.expect(PROMPT)
    child.sendline("one")
    child.expect("First answer.")
    child.expect(PROMPT)
    child.sendline("/fork")
    child.expect("Files were not copied")
    child.expect(r"You are in (\S+) now. (\S+) stays as it was")
    assert child.match is not None
    copy, origin = child.match[1], child.match[2]
    child.expect(PROMPT)
    child.sendline("/mode")
    child.expect("all; there are")
    child.expect(PROMPT)
    child.sendline("two")
    child.expect("Second answer.")
    child.expect(PROMPT)
    leave(child)
    assert [m["role"] for m in model_server.chats[-1]["messages"]] == ["system", "user", "assistant", "user"]
    prompts = {each.id: each.prompts for each in list_sessions()}
    # The origin ends with the command, which the copy does not know.
    assert prompts == {origin: 2, copy: 2}


def test_edit_with_permission_shows_what_each_answer_grants_and_a_coloured_diff(
    chat: Terminal, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "a.py").write_text("x = 1\n")
    model_server.reply(
        tool_call("read", {"path": "a.py"}),
        tool_call("edit", {"path": "a.py", "old": "x = 1", "new": "x = 2"}),
        text("Done."),
    )
    child = chat()
    child.expect(PROMPT)
    child.sendline("change x")
    child.expect(r"\[y\] allow this once")
    child.expect(r"\[a\] allow every edit inside the workspace")
    child.expect(r"\[n\] ")
    child.expect(r"\? $")
    child.sendline("perhaps")
    child.expect(r"\? $")
    child.sendline("y")
    child.expect(re.escape("\x1b[31m-x = 1"))
    child.expect(re.escape("\x1b[32m+x = 2"))
    child.expect("Done.")
    child.expect(PROMPT)
    leave(child)
    assert (workspace / "a.py").read_text() == "x = 2\n"


@pytest.mark.parametrize("answer", ["n", "\x04"])
def test_a_refusal_runs_nothing(chat: Terminal, model_server: ModelServer, workspace: Path, answer: str) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}), text("As you wish."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("do it")
    child.expect("allow exactly this for this session: touch made")
    child.expect(r"\? $")
    child.send(answer if answer == "\x04" else f"{answer}\r")
    child.expect("denied")
    child.expect("As you wish.")
    child.expect(PROMPT)
    leave(child)
    assert not (workspace / "made").exists()


def test_always_holds_for_the_same_command(chat: Terminal, model_server: ModelServer, workspace: Path) -> None:
    again = tool_call("shell", {"command": "echo x >> made"})
    model_server.reply(again, again, text("Twice."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("do it")
    child.expect(r"\? $")
    child.sendline("always")
    child.expect("Twice.")
    child.expect(PROMPT)
    leave(child)
    assert (workspace / "made").read_text() == "x\nx\n"


def test_ctrl_c_cancels_the_turn_and_not_the_chat(chat: Terminal, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(
        stream(text("half"), stall()),
        tool_call("shell", {"command": "echo $$ > pid; sleep 300"}),
        text("Fine."),
    )
    child = chat("--approve", "all")
    child.expect(PROMPT)
    child.sendline("one")
    child.expect("half")
    child.sendintr()
    child.expect("interrupted")
    child.expect(PROMPT)
    child.sendline("two")
    child.expect("sleep 300")
    deadline = time.monotonic() + 10
    while not (workspace / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.sendintr()
    child.expect("interrupted")
    child.expect(PROMPT)
    assert not commands_in(workspace)
    child.sendintr()  # at the prompt it only clears the line
    child.expect(PROMPT)
    child.sendline("three")
    child.expect("Fine.")
    child.expect(PROMPT)
    leave(child)


def test_ctrl_c_at_a_question_cancels_the_turn(chat: Terminal, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}))
    child = chat()
    child.expect(PROMPT)
    child.sendline("do it")
    child.expect(r"\? $")
    child.sendintr()
    child.expect("interrupted")
    child.expect(PROMPT)
    leave(child)
    assert not (workspace / "made").exists()


def test_commands(chat: Terminal, model_server: ModelServer) -> None:
    model_server.always(text("Hello."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("/help")
    child.expect("Ctrl-C cancels")
    child.expect(PROMPT)
    child.sendline("/nonsense")
    child.expect("unknown command /nonsense")
    child.expect(PROMPT)
    child.sendline("remember me")
    child.expect("Hello.")
    child.expect(PROMPT)
    child.sendline("/model other-model")
    child.expect("other-model")
    child.expect(PROMPT)
    child.sendline("and now")
    child.expect("Hello.")
    child.expect(PROMPT)
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    assert model_server.chats[-1]["model"] == "other-model"
    assert "remember me" in json.dumps(model_server.chats[-1]["messages"])


def test_continue_shows_the_conversation_so_far(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("The number is 17."), text("Still 17."))
    child = chat()
    child.expect(PROMPT)
    child.sendline("a number")
    child.expect("is 17.")
    child.expect(PROMPT)
    leave(child)
    child = chat("--continue")
    child.expect("The number is 17.")
    child.expect(PROMPT)
    child.sendline("again?")
    child.expect("Still 17.")
    child.expect(PROMPT)
    leave(child)


def test_the_model_cannot_steer_the_terminal(chat: Terminal, model_server: ModelServer) -> None:
    model_server.reply(text("\x1b]0;owned\x07\x1b[2Jend"))
    child = chat()
    child.expect(PROMPT)
    child.sendline("x")
    child.expect("end")
    assert "\x1b]0;" not in (child.before or "")
    assert "\x1b[2J" not in (child.before or "")
    child.expect(PROMPT)
    leave(child)


def test_provider_errors_leave_the_chat_open(chat: Terminal, model_server: ModelServer) -> None:
    child = chat()
    child.expect(PROMPT)
    child.sendline("x")
    child.expect("the test scripted no further reply")
    child.expect(PROMPT)
    leave(child)


def test_sigterm_ends_the_chat_and_what_it_started(chat: Terminal, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "echo $$ > pid; sleep 300"}))
    child = chat("--approve", "all")
    child.expect(PROMPT)
    child.sendline("x")
    child.expect("sleep 300")
    deadline = time.monotonic() + 10
    while not (workspace / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 143
    assert not commands_in(workspace)


def test_run_asks_on_a_terminal(chat: Terminal, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}), text("Made."))
    child = chat("run", "do it")
    child.expect(r"\[y\] allow this once")
    child.expect(r"\? $")
    child.sendline("y")
    child.expect("Made.")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert (workspace / "made").exists()
