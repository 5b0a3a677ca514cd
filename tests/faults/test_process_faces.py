"""The same faults in the other faces: a chat on a terminal that goes away, an editor that is killed or kills."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pexpect
import pytest

from tests.acp.program import Program, prompt, wait_for
from tests.conftest import StartCli, Terminal
from tests.faults.aftermath import GO_ON, GOING_ON, Aftermath, results, the_log
from tests.faults.process_runs import require_gone, require_nothing_runs
from tests.model_server import ModelServer, text, tool_call
from tests.processes import descendants

SLOW = "echo $$ > pids; sleep 300"
STUBBORN = "trap '' TERM INT HUP; echo $$ > pids; while :; do sleep 0.05; done"
CUT_OFF = "Interrupted before it ended."


@pytest.fixture
def acp(start_cli: StartCli, model_server: ModelServer) -> Program:
    model_server.reply(tool_call("shell", {"command": SLOW}))
    return Program(start_cli("acp", env=model_server.env))


def at_work(terminal: Terminal, server: ModelServer, workspace: Path) -> pexpect.spawn[str]:
    """A chat whose turn runs the command that the server was told to ask for."""
    child = terminal("--approve", "all", **server.env)
    child.expect("> ")
    child.sendline("Do it.")
    wait_for(workspace / "pids")
    return child


@pytest.mark.parametrize(("number", "code", "outcome"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGKILL, -9, "")])
def test_a_chat_is_ended(
    terminal: Terminal,
    model_server: ModelServer,
    workspace: Path,
    aftermath: Aftermath,
    number: signal.Signals,
    code: int,
    outcome: str,
) -> None:
    model_server.reply(tool_call("shell", {"command": SLOW}))
    child = at_work(terminal, model_server, workspace)
    below = descendants(child.pid)
    child.kill(number)
    require_gone(below)
    child.wait()
    assert results(aftermath(child, code, outcome, {"pids": None})) == [CUT_OFF]


def test_the_terminal_of_a_chat_goes_away(
    terminal: Terminal, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    """And the chat goes on, on another."""
    model_server.reply(tool_call("shell", {"command": SLOW}))
    child = at_work(terminal, model_server, workspace)
    below = descendants(child.pid)
    # The kernel says SIGHUP to whose terminal it was.
    os.close(child.child_fd)
    child.child_fd, child.closed = -1, True
    child.ptyproc.fd, child.ptyproc.closed = -1, True
    child.wait()
    require_gone(below)

    def go_on() -> None:
        again = terminal("--continue", **model_server.env)
        again.expect("> $")
        again.sendline(GO_ON)
        again.expect(GOING_ON)
        leave(again)

    assert results(aftermath(child, 143, "terminated", {"pids": None}, go_on=go_on)) == [CUT_OFF]


def leave(chat: pexpect.spawn[str]) -> None:
    """The person ends a chat that waits for them."""
    chat.expect("> $")
    chat.sendeof()
    chat.wait()
    assert chat.exitstatus == 0


def test_a_turn_of_a_chat_is_cancelled_and_the_chat_goes_on(
    terminal: Terminal, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    model_server.reply(tool_call("shell", {"command": STUBBORN}), text("Here I am."))
    child = at_work(terminal, model_server, workspace)
    child.sendintr()
    time.sleep(0.2)
    child.sendintr()
    child.expect("> $")
    require_nothing_runs(workspace, 0.5)
    child.sendline("And now?")
    child.expect("Here I am.")
    leave(child)
    assert results(aftermath(child, 0, "completed", {"pids": None})) == [CUT_OFF]


@pytest.mark.parametrize(
    ("how", "code", "outcome"),
    [(signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, "interrupted"), ("stdin", 0, "interrupted")],
)
def test_an_editor_ends_it(
    acp: Program,
    start_cli: StartCli,
    model_server: ModelServer,
    workspace: Path,
    aftermath: Aftermath,
    how: signal.Signals | str,
    code: int,
    outcome: str,
) -> None:
    session = acp.begin(workspace)
    acp.send("session/prompt", prompt(session, "Do it."))
    acp.update(sessionUpdate="tool_call_update", status="in_progress")
    wait_for(workspace / "pids")
    below = descendants(acp.process.pid)
    if isinstance(how, str):
        acp.close()
    else:
        acp.process.send_signal(how)
        acp.end()
    require_gone(below)
    assert the_log().parent.name == session

    def go_on() -> None:
        again = Program(start_cli("acp", env=model_server.env))
        again.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        again.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
        shown = [update for update in again.updates() if update["sessionUpdate"] == "user_message_chunk"]
        assert [update["content"]["text"] for update in shown] == ["Do it."]
        assert again.prompt(session, GO_ON)["stopReason"] == "end_turn"
        assert again.close() == 0

    assert results(aftermath(acp.process, code, outcome, {"pids": None}, go_on=go_on)) == [CUT_OFF]
