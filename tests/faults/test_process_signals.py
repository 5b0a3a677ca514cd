"""Signals, `kill -9` among them: the run ends by its name or not at all, nothing that it started stays, and the session
goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from laguna_agent.agent.store import Ended, Replied, sessions_directory
from tests.conftest import StartCli
from tests.faults.aftermath import Aftermath, Contents, Messages, records, results
from tests.faults.process_runs import (
    RUN,
    ended,
    leftovers,
    require_gone,
    wait_for_file,
    wait_until,
)
from tests.faults.shim import killed_at
from tests.model_server import ModelServer, delay, stall, stream, text, tool_call
from tests.processes import descendants

CUT_OFF = "Interrupted before it ended."
# A child, a grandchild, and one that leaves its session, its group and its environment.
FAMILY = "sleep 300 & (sleep 301 &) ; setsid env -i /bin/sleep 302 & echo $$ > pids; wait"
STUBBORN = "trap '' TERM INT HUP; echo $$ > pids; while :; do sleep 0.05; done"
BEGUN: Contents = {"first.txt": "1\n", "pids": None}
"""What `start_call` leads to: nothing of the third call."""


def start_call(
    start_cli: StartCli, server: ModelServer, workspace: Path, command: str, *more: str
) -> subprocess.Popen[str]:
    """A run whose second call of three is running; the first has written a file."""
    server.reply(
        [
            tool_call("write", {"path": "first.txt", "content": "1\n"}),
            tool_call("shell", {"command": command}),
            tool_call("write", {"path": "third.txt", "content": "3\n"}),
        ]
    )
    process = start_cli(*RUN, *more, env=server.env)
    wait_for_file(workspace / "pids", process)
    return process


def require_cut_off_in_the_middle(messages: Messages) -> None:
    assert results(messages) == ["Created first.txt, 1 lines.", CUT_OFF, CUT_OFF]


@pytest.mark.parametrize(
    ("number", "code", "outcome", "sandbox"),
    [
        (signal.SIGINT, 130, "interrupted", "auto"),
        (signal.SIGTERM, 143, "terminated", "none"),
        (signal.SIGHUP, 143, "terminated", "auto"),
    ],
)
def test_a_signal_during_a_call(
    start_cli: StartCli,
    model_server: ModelServer,
    workspace: Path,
    aftermath: Aftermath,
    number: signal.Signals,
    code: int,
    outcome: str,
    sandbox: str,
) -> None:
    process = start_call(start_cli, model_server, workspace, FAMILY, "--sandbox", sandbox)
    process.send_signal(number)
    assert ended(process, code)["outcome"] == outcome
    require_cut_off_in_the_middle(aftermath(process, code, outcome, BEGUN))


def test_a_second_interrupt_spares_a_stubborn_command_its_grace(
    start_cli: StartCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    process = start_call(start_cli, model_server, workspace, STUBBORN)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, 130)["outcome"] == "interrupted"
    assert time.monotonic() - began < 1.5
    require_cut_off_in_the_middle(aftermath(process, 130, "interrupted", BEGUN))


def test_a_stubborn_command_is_killed_after_its_grace(
    start_cli: StartCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    process = start_call(start_cli, model_server, workspace, STUBBORN)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ended(process, 143)["outcome"] == "terminated"
    assert 1.5 < time.monotonic() - began < 6
    require_cut_off_in_the_middle(aftermath(process, 143, "terminated", BEGUN))


def test_the_reader_of_stdout_goes_away(start_cli: StartCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    model_server.reply(stream(text("x" * 4_000, pieces=40), delay(0.3), text("y" * 4_000, pieces=40), stall()))
    process = start_cli("run", "Do it.", "--output", "stream-json", env=model_server.env)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    process.wait(20)
    aftermath(process, 143, "terminated", {})


def test_killed_while_the_model_answers(start_cli: StartCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    model_server.reply(stream(text("half an answer"), stall()))
    process = start_cli("run", "Do it.", "--output", "stream-json", env=model_server.env)
    assert process.stdout is not None
    wait_until(lambda: "half" in process.stdout.readline(), process)  # type: ignore[union-attr]
    process.kill()
    process.wait()
    assert not any(isinstance(record, Replied | Ended) for record in records())
    messages = aftermath(process, -signal.SIGKILL, "", {})
    # Half an answer is none: nobody is told that it was given.
    assert [message["role"] for message in messages] == ["system", "user", "user"]


@pytest.mark.parametrize("sandbox", ["auto", "none"])
def test_killed_during_a_call(
    start_cli: StartCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath, sandbox: str
) -> None:
    process = start_call(start_cli, model_server, workspace, FAMILY, "--sandbox", sandbox)
    below = descendants(process.pid)
    process.kill()
    process.wait()
    require_gone(below)
    require_cut_off_in_the_middle(aftermath(process, -signal.SIGKILL, "", BEGUN))


# Before a call is after the one before it.
@pytest.mark.parametrize("when", ["half", pytest.param("after", marks=pytest.mark.slow)])
def test_killed_while_files_are_written(
    start_cli: StartCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath, when: str
) -> None:
    """At every call that changes something in the workspace: the old file or the new one, and the session goes on."""
    old, new, found, second = "old\n", "new\n" * 3_000, [], 0
    for call in range(1, 40):
        (workspace / "replaced.txt").write_text(old)
        model_server.reply(
            [
                tool_call("edit", {"path": "replaced.txt", "old": "old", "new": new.removesuffix("\n")}),
                tool_call("write", {"path": "made.txt", "content": new}),
            ],
            text("Done."),
        )
        process = start_cli(*RUN, env=model_server.env | killed_at(call, when, workspace))
        _, errors = process.communicate(timeout=30)
        second += len(leftovers(workspace))
        files = {path.name: path.read_text() for path in workspace.glob("*.txt")}
        assert files["replaced.txt"] in (old, new)
        assert files.get("made.txt", new) == new
        found.append((files["replaced.txt"] == new, "made.txt" in files))
        log = max(sessions_directory().glob("*/log.jsonl"), key=lambda path: path.stat().st_ctime_ns)
        if process.returncode == 0:
            aftermath(process, 0, "completed", files, log=log)
            break
        assert errors == ""
        first, *_ = results(aftermath(process, -signal.SIGKILL, "", files, log=log))
        assert files["replaced.txt"] == new or first == CUT_OFF
        (workspace / "made.txt").unlink(missing_ok=True)
    assert list(dict.fromkeys(found)) == [(False, False), (True, False), (True, True)]
    assert second, "the moment in which a file has two names was met"


def test_stopped_and_continued(
    start_cli: StartCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    command = "echo $$ > pids; for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done"
    model_server.reply(tool_call("shell", {"command": command}), stream(text("first "), delay(0.6), text("second")))
    process = start_cli(*RUN, env=model_server.env)
    wait_for_file(workspace / "pids", process)
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(model_server.chats) == 2, process)
    assert ended(process, 0)["text"] == "first second"
    (result,) = results(aftermath(process, 0, "completed", {"pids": None}))
    assert result == "\n".join("12345678") + "\n[exit code 0]"
