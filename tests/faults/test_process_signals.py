"""Signals, `kill -9` among them: the run ends by its name or not at all, nothing that it started stays, and the session
goes on where it was."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laguna_agent.agent.store import Ended, Replied
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files
from tests.conftest import RunCli, StartCli
from tests.faults.process_runs import (
    RUN,
    ended,
    leftovers,
    records,
    require_gone,
    require_nothing_runs,
    require_outcome,
    results,
    resume,
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


def require_cut_off_in_the_middle(messages: list[dict[str, object]], workspace: Path) -> None:
    first, *others = results(messages)
    assert first == "Created first.txt, 1 lines."
    assert others == [CUT_OFF, CUT_OFF]
    assert (workspace / "first.txt").read_text() == "1\n"
    assert not (workspace / "third.txt").exists()


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
    run_cli: RunCli,
    model_server: ModelServer,
    workspace: Path,
    number: signal.Signals,
    code: int,
    outcome: str,
    sandbox: str,
) -> None:
    process = start_call(start_cli, model_server, workspace, FAMILY, "--sandbox", sandbox)
    process.send_signal(number)
    assert ended(process, code)["outcome"] == outcome
    require_nothing_runs(workspace, 0.5)
    require_outcome(outcome)
    require_cut_off_in_the_middle(resume(run_cli, model_server), workspace)


def test_a_second_interrupt_spares_a_stubborn_command_its_grace(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    process = start_call(start_cli, model_server, workspace, STUBBORN)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, 130)["outcome"] == "interrupted"
    assert time.monotonic() - began < 1.5
    require_nothing_runs(workspace, 0.5)
    require_cut_off_in_the_middle(resume(run_cli, model_server), workspace)


def test_a_stubborn_command_is_killed_after_its_grace(
    start_cli: StartCli, model_server: ModelServer, workspace: Path
) -> None:
    process = start_call(start_cli, model_server, workspace, STUBBORN)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ended(process, 143)["outcome"] == "terminated"
    assert 1.5 < time.monotonic() - began < 6
    require_nothing_runs(workspace, 0.5)
    require_outcome("terminated")


def test_the_reader_of_stdout_goes_away(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(stream(text("x" * 4_000, pieces=40), delay(0.3), text("y" * 4_000, pieces=40), stall()))
    process = start_cli("run", "Do it.", "--output", "stream-json", env=model_server.env)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 143
    require_outcome("terminated")
    resume(run_cli, model_server)


def test_killed_while_the_model_answers(start_cli: StartCli, run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.reply(stream(text("half an answer"), stall()))
    process = start_cli("run", "Do it.", "--output", "stream-json", env=model_server.env)
    assert process.stdout is not None
    wait_until(lambda: "half" in process.stdout.readline(), process)  # type: ignore[union-attr]
    process.kill()
    process.wait()
    assert not any(isinstance(record, Replied | Ended) for record in records())
    messages = resume(run_cli, model_server)
    # Half an answer is none: nobody is told that it was given.
    assert [message["role"] for message in messages] == ["system", "user", "user"]


@pytest.mark.parametrize("sandbox", ["auto", "none"])
def test_killed_during_a_call(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path, sandbox: str
) -> None:
    process = start_call(start_cli, model_server, workspace, FAMILY, "--sandbox", sandbox)
    below = descendants(process.pid)
    process.kill()
    process.wait()
    require_gone(below)
    require_nothing_runs(workspace)
    require_outcome("")
    require_cut_off_in_the_middle(resume(run_cli, model_server), workspace)


WRITE = """
import sys
from pathlib import Path
from laguna_agent import atomic
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files
root = Path(sys.argv[1])
if sys.argv[2] == "named":
    # As on a file system that has no files without a name.
    atomic._NAMELESS = None
Files(policy_for(root)).write(root / "new" / "file.txt", b"new\\n" * 3_000)
Files(policy_for(root)).write(root / "file.txt", b"new\\n" * 3_000)
"""


# Before a call is after the one before it.
@pytest.mark.parametrize(
    ("when", "kind"),
    [("half", "nameless"), pytest.param("after", "nameless", marks=pytest.mark.slow), ("half", "named")],
)
def test_killed_while_a_file_is_written(workspace: Path, when: str, kind: str) -> None:
    """At every call that changes a file: the old content or the new, and nothing beside it that is not swept."""
    old, new, found = b"old\n" * 2_000, b"new\n" * 3_000, set()
    for call in range(1, 40):
        (workspace / "file.txt").write_bytes(old)
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(workspace), kind],
            env={**os.environ, **killed_at(call, when)}, capture_output=True, check=False,
        )  # fmt: skip
        made, replaced = workspace / "new" / "file.txt", workspace / "file.txt"
        assert not made.exists() or made.read_bytes() == new
        assert replaced.read_bytes() in (old, new)
        found.add((made.exists(), replaced.read_bytes() == new))
        left = leftovers(workspace)
        assert len(left) <= 1
        files = Files(policy_for(workspace))
        files.sweep(made)
        files.sweep(replaced)
        assert leftovers(workspace) == []
        shutil.rmtree(workspace / "new", ignore_errors=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert found == {(False, False), (True, False), (True, True)}


def test_what_somebody_is_writing_is_not_swept(workspace: Path) -> None:
    (workspace / "file.txt").write_text("old")
    files = Files(policy_for(workspace))
    mine = workspace / ".file.txt.0123456789ab.tmp"
    with mine.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.sweep(workspace / "file.txt")
        assert mine.exists()
    files.sweep(workspace / "file.txt")
    assert not mine.exists()


def test_stopped_and_continued(start_cli: StartCli, model_server: ModelServer, workspace: Path) -> None:
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
    (result,) = results(model_server.chats[-1]["messages"])
    assert result == "\n".join("12345678") + "\n[exit code 0]"
