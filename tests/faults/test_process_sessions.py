"""Damaged logs, two processes at once, and a clock that jumps: what is not understood is named and never written over,
what is whole goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from laguna_agent.agent.store import Opened, sessions_directory
from tests.conftest import RunCli, StartCli
from tests.faults.aftermath import GO_ON, Aftermath, records, results, the_log
from tests.faults.process_runs import RUN, ended, record_of, wait_for_file, wait_until
from tests.faults.shim import jumping_clock
from tests.model_server import ModelServer, http, text, tool_call

DAY = 86_400
FILES = {"file.txt": "1\n"}
"""What the session of `run` made."""


@pytest.fixture
def run(run_cli: RunCli, model_server: ModelServer) -> subprocess.CompletedProcess[str]:
    """A session with one prompt that has ended."""
    model_server.reply(tool_call("write", {"path": "file.txt", "content": FILES["file.txt"]}), text("Done."))
    done = run_cli(*RUN, env=model_server.env)
    assert record_of(done.stdout, 0)["text"] == "Done."
    return done


@pytest.fixture
def log(run: subprocess.CompletedProcess[str]) -> Path:
    """Its log."""
    return the_log()


@pytest.mark.parametrize(
    "tail",
    [b'{"record":"said","message":{"role":"assist', b"\0" * 4_096, pytest.param(b"\xff\xfe{", marks=pytest.mark.slow)],
)
def test_the_last_line_is_cut_short(
    run: subprocess.CompletedProcess[str], log: Path, aftermath: Aftermath, tail: bytes
) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + tail)
    aftermath(run, 0, None, FILES)
    assert log.read_bytes().startswith(whole + b'{"record":"opened"')


def test_the_last_line_lacks_its_end(run: subprocess.CompletedProcess[str], log: Path, aftermath: Aftermath) -> None:
    """An editor, or a copy, may have taken it; the record is whole."""
    whole = log.read_bytes()
    log.write_bytes(whole.removesuffix(b"\n"))
    aftermath(run, 0, None, FILES)
    assert log.read_bytes().startswith(whole)


@pytest.mark.parametrize("garbage", [b"garbage \xff\0\n", b'{"record":"remarked","text":"\xff\xfe"}\n'])
def test_a_line_in_the_middle_is_damaged(
    run_cli: RunCli, model_server: ModelServer, log: Path, aftermath: Aftermath, garbage: bytes
) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:6], garbage, *lines[7:]])
    log.write_bytes(damaged)
    for how in (("--continue",), ("--resume", log.parent.name, "--fork")):
        done = run_cli("run", "Go on.", *how, "--output", "json", env=model_server.env)
        assert record_of(done.stdout, 2)["outcome"] == "usage"
        assert f"{log}:7: not a record of a session log" in done.stderr
    assert log.read_bytes() == damaged
    assert "damaged" in run_cli("sessions", "list").stdout
    assert len(list(sessions_directory().iterdir())) == 1
    made = run_cli("sessions", "recover", log.parent.name)
    assert made.returncode == 0, made.stderr
    recovered = log.parent.with_name(made.stdout.strip()) / log.name
    messages = aftermath(done, 2, "", FILES, log=recovered, told=model_server.chats[0]["messages"])
    assert [message["role"] for message in messages] == ["system", "user", "user"]
    assert log.read_bytes() == damaged


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b'{"record":"ope',
        b"garbage\n",
        pytest.param(b'{"record":"prompted","content":[]}\n', marks=pytest.mark.slow),
        pytest.param(b"\0\0\n", marks=pytest.mark.slow),
    ],
)
def test_a_log_that_does_not_say_how_it_began(
    run_cli: RunCli, model_server: ModelServer, log: Path, aftermath: Aftermath, header: bytes
) -> None:
    """It is never written over, and hides no other session."""
    rest = b"" if not header.endswith(b"\n") else b"".join(log.read_bytes().splitlines(keepends=True)[1:])
    spoilt = log.parent.with_name("20990101-000000-abcdef") / "log.jsonl"
    spoilt.parent.mkdir()
    spoilt.write_bytes(header + rest)
    refused = run_cli("run", "Go on.", "--resume", spoilt.parent.name, "--output", "json", env=model_server.env)
    assert record_of(refused.stdout, 2)["outcome"] == "usage"
    assert spoilt.parent.name in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert spoilt.read_bytes() == header + rest
    assert run_cli("sessions", "recover", spoilt.parent.name).returncode == 2
    assert len(list(sessions_directory().iterdir())) == 2

    def go_on() -> None:
        done = run_cli("run", GO_ON, "--continue", "--output", "json", env=model_server.env)
        assert record_of(done.stdout, 0)["session_id"] == log.parent.name

    aftermath(refused, 2, "completed", FILES, log=log, go_on=go_on)
    assert spoilt.read_bytes() == header + rest


def test_two_processes_on_one_session(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo $$ > pids; sleep 20"}))
    process = start_cli(*RUN, env=model_server.env)
    wait_for_file(workspace / "pids", process)
    before = the_log().read_bytes()
    refused = run_cli("run", "Me too.", "--continue", "--output", "json", env=model_server.env)
    record = record_of(refused.stdout, 2)
    assert record["message"] == f"session {the_log().parent.name} is open in another process (process {process.pid})"
    assert the_log().read_bytes() == before
    process.send_signal(signal.SIGINT)
    assert ended(process, 130)["outcome"] == "interrupted"
    assert results(aftermath(process, 130, "interrupted", {"pids": None})) == ["Interrupted before it ended."]


def test_two_sessions_in_one_workspace(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    """Nobody writes over what the other has done since the file was read."""
    (workspace / "shared.txt").write_text("one\ntwo\n")
    model_server.reply(
        tool_call("read", {"path": "shared.txt"}),
        tool_call("shell", {"command": "echo $$ > pids; while [ ! -e go ]; do sleep 0.05; done"}),
    )
    process = start_cli(*RUN, env=model_server.env)
    wait_for_file(workspace / "pids", process)
    model_server.reply(tool_call("edit", {"path": "shared.txt", "old": "two", "new": "TWO"}), text("Mine is done."))
    second = run_cli(*RUN, env=model_server.env)
    mine = record_of(second.stdout, 0)
    assert mine["text"] == "Mine is done."
    told = model_server.chats[-1]["messages"]
    edit = tool_call("edit", {"path": "shared.txt", "old": "one", "new": "ONE"})
    write = tool_call("write", {"path": "shared.txt", "content": "lost\n"})
    model_server.reply(write, edit, text("So is mine."))
    (workspace / "go").touch()
    other = ended(process, 0)
    assert other["text"] == "So is mine."
    files = {"shared.txt": "ONE\nTWO\n", "pids": None, "go": ""}
    logs = [sessions_directory() / str(each["session_id"]) / "log.jsonl" for each in (other, mine)]
    messages = aftermath(process, 0, "completed", files, log=logs[0])
    _, _, refused, edited = results(messages)
    assert "changed" in refused
    assert "-two\n+TWO" in refused
    assert edited.startswith("Edited")
    assert len(results(aftermath(second, 0, "completed", files, log=logs[1], told=told))) == 1
    assert len(list(sessions_directory().iterdir())) == 2


@pytest.mark.parametrize("jump", [-400 * DAY, pytest.param(400 * DAY, marks=pytest.mark.slow)])
def test_the_clock_jumps(
    start_cli: StartCli,
    run_cli: RunCli,
    model_server: ModelServer,
    workspace: Path,
    tmp_path: Path,
    aftermath: Aftermath,
    jump: int,
) -> None:
    """Nothing that waits or counts looks at the wall clock, and the newest session is still the newest."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    env = model_server.env | jumping_clock(clock)
    command = "echo $$ > pids; while [ ! -e go ]; do sleep 0.02; done"
    model_server.reply(tool_call("shell", {"command": command, "timeout": 20}), text("Done."))
    began = time.monotonic()
    process = start_cli(*RUN, "--max-time", "30", env=env)
    wait_for_file(workspace / "pids", process)
    clock.write_text(str(jump))
    (workspace / "go").touch()
    record = ended(process, 0)
    assert (record["text"], record["outcome"]) == ("Done.", "completed")
    assert 0 <= record["seconds"] < time.monotonic() - began
    told = model_server.chats[-1]["messages"]
    model_server.reply(text("The second."))
    done = run_cli(*RUN, env=env)
    second = record_of(done.stdout, 0)
    opened = [
        next(each for each in records(path) if isinstance(each, Opened))
        for path in sorted(sessions_directory().glob("*/log.jsonl"), key=os.path.getmtime)
    ]
    assert opened[-1].id == second["session_id"]
    assert (opened[0].created < opened[1].created) == (jump > 0), "the clock did jump"
    logs = [sessions_directory() / str(each["session_id"]) / "log.jsonl" for each in (record, second)]
    files = {"pids": None, "go": ""}

    def go_on() -> None:
        went_on = run_cli("run", GO_ON, "--continue", "--output", "json", env=env)
        assert record_of(went_on.stdout, 0)["session_id"] == second["session_id"]

    aftermath(done, 0, "completed", files, log=logs[1], go_on=go_on)
    aftermath(process, 0, "completed", files, log=logs[0], told=told)


def test_the_clock_jumps_while_a_retry_waits(
    start_cli: StartCli, model_server: ModelServer, tmp_path: Path, aftermath: Aftermath
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    model_server.reply(http(503, {"error": {"message": "busy"}}, {"Retry-After": "1"}), text("Done."))
    process = start_cli(*RUN, env=model_server.env | jumping_clock(clock))
    wait_until(lambda: len(model_server.chats) == 1, process)
    clock.write_text(str(-DAY))
    began = time.monotonic()
    assert ended(process, 0)["text"] == "Done."
    assert time.monotonic() - began < 10
    assert model_server.chats[0] == model_server.chats[1]
    aftermath(process, 0, "completed", {})
