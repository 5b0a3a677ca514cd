"""Commands in the editor's terminals: shown while they run, ended with the turn, released exactly once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from laguna_agent.acp import schema
from laguna_agent.acp.terminal import UNKNOWN_EXIT, exit_code
from laguna_agent.agent.events import Event, ToolCallUpdate, TurnEnded
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import find_session
from laguna_agent.sandbox.launcher import CommandResult, Granted
from laguna_agent.tools.workspace import Listener, LocalWorkspace
from tests.acp.editor_client import TERMINALS, Desk
from tests.acp.program import Message, Program, is_alive, prompt, wait_for
from tests.acp.test_editor import Open, open_desk, result
from tests.agent.driving import lines, replayed, settings_for, talk
from tests.model_server import ModelServer, Part, text, tool_call

__all__ = ["open_desk"]
HOLD = "echo $$ > pid; echo begun; sleep 300 & wait"


def shell(command: str, **more: object) -> Part:
    return tool_call("shell", {"command": command, **more})


@pytest.fixture(autouse=True)
def without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The editor's terminals are used only where nothing confines commands."""
    monkeypatch.setenv("LAGUNA_SANDBOX", "none")


def shown(messages: list[Message]) -> list[str]:
    """The terminals that tool calls show, in order."""
    updates = [m["params"]["update"] for m in messages if m.get("method") == "session/update"]
    blocks = [block for u in updates if u["sessionUpdate"].startswith("tool_call") for block in u.get("content") or []]
    return [block["terminalId"] for block in blocks if "terminalId" in block]


def hold(program: Program, model_server: ModelServer, session: str, workspace: Path) -> tuple[int, int]:
    """Have the model run a command that does not end; the prompt's id and the command's pid."""
    model_server.reply(shell(HOLD))
    id = program.send("session/prompt", prompt(session, "Run it"))
    program.until(lambda m: m.get("method") == "terminal/wait_for_exit")
    return id, int(wait_for(workspace / "pid"))


def test_a_command_runs_in_a_terminal_that_the_call_shows_while_it_lives(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    program, desk, session = open_desk(TERMINALS)
    done = result(program, model_server, session, shell("echo out; echo err >&2; pwd; exit 3"))
    assert done["text"] == f"out\nerr\n{workspace}\n[exit code 3]"
    assert done["rawOutput"]["exitCode"] == 3
    assert done["content"][0]["content"]["text"].startswith("```\nout\nerr")
    assert desk.methods() == ["terminal/create", "terminal/wait_for_exit", "terminal/output", "terminal/release"]
    assert desk.of("terminal/create")[0]["args"] == ["-c", "echo out; echo err >&2; pwd; exit 3"]
    desk.require_all_released()
    released = next(at for at, m in enumerate(program.seen) if m.get("method") == "terminal/release")
    assert shown(program.seen[:released]) == ["term-1"]
    assert shown(program.seen[released:]) == []
    assert program.close() == 0


def test_no_log_no_replay_and_no_loaded_session_names_a_terminal(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    program, _, session = open_desk(TERMINALS)
    for _ in range(2):
        result(program, model_server, session, shell("echo out"))
    program.seen.clear()
    assert "modes" in program.call("session/load", {"sessionId": session, "cwd": str(workspace), "mcpServers": []})
    loaded = json.dumps(program.seen)
    assert "[exit code 0]" in loaded
    assert "term-" not in loaded
    assert program.close() == 0
    log = find_session(session)
    assert "term-" not in log.read_text()
    # A replay compares how many events went out with what the log says, and fails where they differ.
    events = replayed(log)
    assert sum(isinstance(event, TurnEnded) for event in events) == 2


class Watched(LocalWorkspace):
    """Shows a terminal, as an editor's workspace does."""

    async def run(
        self,
        command: str,
        *,
        timeout: float,
        emit: Listener | None = None,
        on_terminal: Listener | None = None,
        kind: Granted = "workspace",
    ) -> CommandResult:
        assert on_terminal is not None
        await on_terminal("term-1")
        return await super().run(command, timeout=timeout)


def test_but_for_the_terminal_a_replay_gives_the_same_bytes(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(shell("echo out > a.txt"), shell("cat a.txt"), text("Done."))

    async def live() -> tuple[Path, list[Event]]:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        session.workspace = Watched(workspace, spool=workspace.parent / "spool", sandbox=session.workspace.sandbox)
        try:
            return find_session(session.id), await talk(session, "Go on")
        finally:
            await session.aclose()

    log, events = anyio.run(live)
    terminals = [event for event in events if isinstance(event, ToolCallUpdate) and event.terminal]
    assert [event.terminal for event in terminals] == ["term-1", "term-1"]
    assert lines(replayed(log)) == lines([event for event in events if event not in terminals])


def test_long_output_is_kept_for_the_read_tool(open_desk: Open, model_server: ModelServer) -> None:
    program, _, session = open_desk(TERMINALS)
    done = result(program, model_server, session, shell("seq 1 20000"))
    kept = done["text"].partition("all of it is in ")[2].partition(" ...]")[0]
    assert kept.endswith("/output/command-1.log")
    read = tool_call("read", {"path": kept, "offset": 15000, "limit": 1})
    assert result(program, model_server, session, read)["text"].startswith("15000\t15000\n")


def test_a_command_that_takes_too_long_is_killed_and_its_output_kept(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    program, desk, session = open_desk(TERMINALS)
    done = result(program, model_server, session, shell(HOLD, timeout=1))
    assert done["text"].startswith("begun\n[timed out after 1 s and was ended")
    assert done["status"] == "failed"
    assert not is_alive(int(wait_for(workspace / "pid")))
    desk.require_all_released()
    calls = [method.partition("/")[2] for method in desk.methods()]
    assert calls == ["create", "wait_for_exit", "kill", "output", "release"]


def test_secrets_of_ours_are_blank_and_nothing_asks(
    open_desk: Open, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "s3cret")
    program, _, session = open_desk(TERMINALS)
    done = result(program, model_server, session, shell('echo "[$DEPLOY_TOKEN] $PAGER $TERM"; read x || echo no input'))
    assert done["text"] == "[] cat dumb\nno input\n[exit code 0]"


@pytest.mark.parametrize("immortal", [False, True], ids=["killed", "not killed"])
def test_cancel_ends_the_command_before_it_answers(
    open_desk: Open, model_server: ModelServer, workspace: Path, immortal: bool
) -> None:
    program, desk, session = open_desk(TERMINALS)
    desk.immortal = immortal
    id, pid = hold(program, model_server, session, workspace)
    program.notify("session/cancel", {"sessionId": session})
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    assert not is_alive(pid)
    desk.require_all_released()
    assert program.updates()[-1]["status"] == "failed"
    desk.immortal = False
    assert "again" in result(program, model_server, session, shell("echo again"))["text"]
    desk.require_all_released()
    assert program.close() == 0


@pytest.mark.parametrize("end", ["close", "terminate", "kill the client"])
def test_no_command_outlives_the_connection(
    open_desk: Open, model_server: ModelServer, workspace: Path, end: str
) -> None:
    program, desk, session = open_desk(TERMINALS)
    # As if the client were gone before it could end anything.
    desk.immortal = end != "terminate"
    _, pid = hold(program, model_server, session, workspace)
    if end == "terminate":
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == 143
    elif end == "close":
        assert program.close() == 0
    else:
        assert program.process.stdin is not None and program.process.stdout is not None
        program.process.stdin.close()
        assert program.process.wait(20) == 0
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)
    if end != "kill the client":
        desk.require_all_released()


def release_of(id: str) -> Callable[[Message], bool]:
    return lambda m: m.get("method") == "terminal/release" and m["params"]["terminalId"] == id


def cancel_at_create(program: Program, desk: Desk, model_server: ModelServer, session: str) -> int:
    """Cancel a prompt while the client has not yet answered that it made the terminal; the prompt's id."""
    desk.held = {"terminal/create"}
    model_server.reply(shell(HOLD))
    id = program.send("session/prompt", prompt(session, "Run it"))
    program.until(lambda m: m.get("method") == "terminal/create")
    program.notify("session/cancel", {"sessionId": session})
    return id


def test_a_terminal_that_is_made_after_the_cancel_is_released(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    program, desk, session = open_desk(TERMINALS)
    id = cancel_at_create(program, desk, model_server, session)
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    desk.held.clear()
    desk.let_go()
    program.until(release_of("term-1"))
    desk.commands["term-1"].ended.wait(10)
    assert desk.commands["term-1"].process.returncode is not None
    desk.require_all_released()
    assert "again" in result(program, model_server, session, shell("echo again"))["text"]
    desk.require_all_released()


def test_a_terminal_that_is_made_while_the_turn_is_cancelled_is_ended_before_the_answer(
    open_desk: Open, model_server: ModelServer, workspace: Path
) -> None:
    program, desk, session = open_desk(TERMINALS)
    id = cancel_at_create(program, desk, model_server, session)
    desk.let_go()
    assert program.answer_to(id)["result"] == {"stopReason": "cancelled"}
    desk.require_all_released()
    desk.commands["term-1"].ended.wait(10)
    assert desk.commands["term-1"].process.returncode is not None


def test_a_client_that_refuses_a_terminal_leaves_the_launcher(open_desk: Open, model_server: ModelServer) -> None:
    program, desk, session = open_desk(TERMINALS)
    desk.refused = {"terminal/create": -32603}
    assert result(program, model_server, session, shell("echo here"))["text"] == "here\n[exit code 0]"
    desk.refused = {"terminal/create": -32601}
    for _ in range(2):
        assert result(program, model_server, session, shell("echo here"))["text"] == "here\n[exit code 0]"
    assert desk.methods() == ["terminal/create"] * 2


@pytest.mark.parametrize("method", ["terminal/wait_for_exit", "terminal/output", "terminal/kill"])
def test_a_terminal_that_fails_is_released_all_the_same(
    open_desk: Open, model_server: ModelServer, workspace: Path, method: str
) -> None:
    program, desk, session = open_desk(TERMINALS)
    desk.refused = {method: -32603}
    command, limit = (HOLD, 1) if method != "terminal/output" else ("echo out", 60)
    done = result(program, model_server, session, shell(command, timeout=limit))
    expected = {
        "terminal/wait_for_exit": "The editor's terminal failed, and the command was ended: refused by the test",
        "terminal/output": "[the editor did not hand over the output: refused by the test]\n[exit code 0]",
        "terminal/kill": "[timed out after 1 s",
    }
    assert expected[method] in done["text"]
    desk.require_all_released()
    if command == HOLD:
        desk.commands["term-1"].ended.wait(10)
        assert desk.commands["term-1"].process.returncode is not None


def test_jobs_stay_with_the_launcher(open_desk: Open, model_server: ModelServer) -> None:
    program, desk, session = open_desk(TERMINALS)
    begun = result(program, model_server, session, shell("echo begun; sleep 300", background=True))
    assert begun["text"] == "[job-1: running]\nbegun"
    assert desk.asked == []
    assert program.close() == 0


def test_the_end_of_a_command_as_a_code() -> None:
    status = schema.TerminalExitStatus
    assert exit_code(status(exit_code=0), None) == 0
    assert exit_code(status(), status(exit_code=7)) == 7
    assert exit_code(status(exit_code=1, signal="SIGTERM")) == 1
    assert [exit_code(status(signal=name)) for name in ("SIGKILL", "kill", "9")] == [137, 137, 137]
    assert exit_code(status(signal="a meteorite"), None) == UNKNOWN_EXIT
