"""Signals: the turn ends, nothing that it started stays, and the final record is written."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, stall, stream, text, tool_call
from tests.processes import commands_in

ENDINGS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "terminated"),
    (signal.SIGHUP, 143, "terminated"),
]


def wait_for(path: Path, process: subprocess.Popen[str]) -> str:
    """The text of a file that a command of the agent writes."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the command did not start"
        time.sleep(0.02)
    return path.read_text()


def wait_for_request(server: ModelServer, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not server.chats:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no request came"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str], code: int) -> dict[str, object]:
    """The final record of a process that was signalled."""
    out, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    record: dict[str, object] = json.loads(out.splitlines()[-1])
    assert record["type"] == "result"
    assert record["exit_code"] == code
    return record


@pytest.mark.parametrize(("number", "code", "outcome"), ENDINGS)
def test_during_a_tool_call(
    start_cli: StartCli,
    run_cli: RunCli,
    model_server: ModelServer,
    workspace: Path,
    number: signal.Signals,
    code: int,
    outcome: str,
) -> None:
    command = "sleep 300 & (sleep 301 & echo $! > deep.pid); echo $$ $! > pids; wait"
    model_server.reply(tool_call("shell", {"command": command}))
    process = start_cli("run", "x", "--output", "json", "--approve", "all", env=model_server.env)
    wait_for(workspace / "pids", process)
    wait_for(workspace / "deep.pid", process)
    assert len(commands_in(workspace)) >= 3
    process.send_signal(number)
    record = ended(process, code)
    assert record["outcome"] == outcome
    assert not commands_in(workspace)
    # The session can be taken up again.
    model_server.reply(text("Going on."))
    done = run_cli("run", "go on", "--output", "json", "--resume", str(record["session_id"]), env=model_server.env)
    assert json.loads(done.stdout)["outcome"] == "completed"


@pytest.mark.parametrize(("number", "code", "outcome"), ENDINGS)
def test_while_the_model_answers(
    start_cli: StartCli,
    model_server: ModelServer,
    number: signal.Signals,
    code: int,
    outcome: str,
) -> None:
    model_server.reply(stream(text("half"), stall()))
    process = start_cli("run", "x", "--output", "stream-json", env=model_server.env)
    wait_for_request(model_server, process)
    process.send_signal(number)
    assert ended(process, code)["outcome"] == outcome


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_at_any_moment_there_is_a_record_and_no_traceback(
    start_cli: StartCli, model_server: ModelServer, seconds: float
) -> None:
    model_server.always(stream(text("half"), stall()))
    process = start_cli("run", "x", "--output", "json", env=model_server.env)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    if process.returncode == -signal.SIGTERM:
        # Python itself was still starting: nothing of ours ran yet.
        assert out == ""
        return
    assert process.returncode == 143
    assert json.loads(out)["outcome"] == "terminated"


def test_a_second_interrupt_does_not_wait_for_a_stubborn_command(
    start_cli: StartCli, model_server: ModelServer, workspace: Path
) -> None:
    command = "trap '' TERM INT; echo $$ > pids; while :; do sleep 0.1; done"
    model_server.reply(tool_call("shell", {"command": command}))
    process = start_cli("run", "x", "--output", "json", "--approve", "all", env=model_server.env)
    wait_for(workspace / "pids", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, 130)["outcome"] == "interrupted"
    assert time.monotonic() - started < 1.0
    assert not commands_in(workspace)


def test_while_the_reader_of_stdout_stalls(start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.always(stream(text("".join(f"{n} " for n in range(150_000)), pieces=200), stall()))
    process = start_cli("run", "x", "--output", "stream-json", env=model_server.env)
    wait_for_request(model_server, process)
    time.sleep(0.5)  # long enough to fill the pipe that nobody reads
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


def test_while_reading_standard_input(start_cli: StartCli) -> None:
    process = start_cli("run", "-", "--output", "json")
    assert process.stdin is not None
    process.stdin.write("half a prompt")
    process.stdin.flush()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stdout is not None
    assert json.loads(process.stdout.read())["outcome"] == "interrupted"


def test_nohup_keeps_running(start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.reply(lambda _: (time.sleep(1), text("done"))[1])
    process = start_cli(
        "run", "x", env=model_server.env, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_for_request(model_server, process)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "done\n"


def test_a_reader_that_goes_away_ends_the_run(start_cli: StartCli, model_server: ModelServer, workspace: Path) -> None:
    command = "echo $$ > pids; while :; do echo x; sleep 0.05; done"
    model_server.reply(tool_call("shell", {"command": command}))
    process = start_cli("run", "x", "--output", "stream-json", "--approve", "all", env=model_server.env)
    wait_for(workspace / "pids", process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(20) == 143
    assert process.stderr.read() == ""
    assert not commands_in(workspace)
