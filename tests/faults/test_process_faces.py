"""The same faults in the other faces: a chat on a terminal that goes away, an editor that is killed or kills."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pexpect
import pytest

from tests.acp.program import Program, prompt, wait_for
from tests.conftest import RunCli, StartCli, Terminal
from tests.faults.process_runs import require_gone, require_nothing_runs, require_outcome, results, resume, the_log
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_chat_is_ended(
    terminal: Terminal, run_cli: RunCli, model_server: ModelServer, workspace: Path, number: signal.Signals
) -> None:
    model_server.reply(tool_call("shell", {"command": SLOW}))
    child = at_work(terminal, model_server, workspace)
    below = descendants(child.pid)
    child.kill(number)
    require_gone(below)
    child.wait()
    require_nothing_runs(workspace)
    if number != signal.SIGKILL:
        assert child.exitstatus == 143
        require_outcome("terminated")
    assert results(resume(run_cli, model_server)) == [CUT_OFF]


def test_the_terminal_of_a_chat_goes_away(
    terminal: Terminal, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": SLOW}))
    child = at_work(terminal, model_server, workspace)
    below = descendants(child.pid) | {(child.pid, _born(child.pid))}
    # The kernel says SIGHUP to whose terminal it was.
    os.close(child.child_fd)
    require_gone(below)
    child.child_fd, child.closed = -1, True
    child.ptyproc.fd, child.ptyproc.closed = -1, True
    require_outcome("terminated")
    assert results(resume(run_cli, model_server)) == [CUT_OFF]


def _born(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def test_a_turn_of_a_chat_is_cancelled_and_the_chat_goes_on(
    terminal: Terminal, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": STUBBORN}), text("Going on."))
    child = at_work(terminal, model_server, workspace)
    child.sendintr()
    time.sleep(0.2)
    child.sendintr()
    child.expect("> $")
    require_nothing_runs(workspace, 0.5)
    child.sendline("And now?")
    child.expect("Going on.")
    child.expect("> $")
    child.sendeof()
    child.wait()
    assert child.exitstatus == 0
    assert results(model_server.chats[-1]["messages"]) == [CUT_OFF]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, "stdin"])
def test_an_editor_ends_it(
    acp: Program, start_cli: StartCli, model_server: ModelServer, workspace: Path, how: signal.Signals | str
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
    assert acp.process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, "stdin": 0}[how]
    require_gone(below)
    require_nothing_runs(workspace)
    require_outcome("" if how == signal.SIGKILL else "interrupted")
    again = Program(start_cli("acp", env=model_server.env))
    again.call("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
    again.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
    shown = [update for update in again.updates() if update["sessionUpdate"] == "user_message_chunk"]
    assert [update["content"]["text"] for update in shown] == ["Do it."]
    model_server.reply(text("Going on."))
    assert again.prompt(session, "Go on.")["stopReason"] == "end_turn"
    assert results(model_server.chats[-1]["messages"]) == [CUT_OFF]
    assert again.close() == 0
    assert the_log().parent.name == session
