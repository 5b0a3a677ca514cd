"""Disks that are full, read-only or not there, and directories that go away: named, survived where that is possible,
and never half of anything on disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.agent.store import Prompted, ToolRan
from tests.conftest import RunCli, StartCli
from tests.faults.process_runs import (
    RUN,
    ended,
    leftovers,
    record_of,
    records,
    require_nothing_runs,
    results,
    resume,
    the_log,
    wait_for_file,
)
from tests.faults.shim import full_after
from tests.model_server import ModelServer, text, tool_call

STATE = Path("laguna-agent")


def state() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / STATE


LARGE = " ".join(map(str, range(10_000)))
"""What does not fit. No piece of it again and again: an answer that repeats itself is cut off."""


def test_the_disk_of_the_log_fills_up(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    long = "".join(f"x{number} = {number}\n" for number in range(3_000))
    model_server.reply(
        tool_call("write", {"path": "first.txt", "content": "1\n"}),
        tool_call("write", {"path": "long.txt", "content": long}),
    )
    shim = full_after(30_000, state() / "sessions")
    done = run_cli(*RUN, env=model_server.env | shim)
    record = record_of(done.stdout, 2)
    assert record["outcome"] == "storage"
    assert "No space left on device" in record["message"]
    assert "Traceback" not in done.stderr
    require_nothing_runs(workspace, 0.5)
    whole = the_log().read_bytes()
    assert any(isinstance(each, ToolRan) for each in records())
    messages = resume(run_cli, model_server)
    assert the_log().read_bytes().startswith(whole)
    assert results(messages)[0] == "Created first.txt, 1 lines."


def test_no_room_for_a_session(run_cli: RunCli, model_server: ModelServer) -> None:
    done = run_cli(*RUN, env=model_server.env | full_after(0, state() / "sessions"))
    record = record_of(done.stdout, 2)
    assert (record["outcome"], done.stderr.count("\n")) == ("storage", 1)
    assert "No space left on device" in done.stderr
    assert model_server.chats == []


def test_the_log_reaches_the_largest_size_of_a_file(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer
) -> None:
    numbers = iter(range(1_000))
    model_server.always(lambda _: tool_call("list", {"path": f"./{'a/../' * next(numbers)}"}))
    process = start_cli(
        *RUN, env=model_server.env, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    )
    record = ended(process, 2)
    assert record["outcome"] == "storage"
    assert "File too large" in record["message"]
    assert len(the_log().read_bytes()) <= 40_000
    model_server.always(text("unused"))
    resume(run_cli, model_server)


def test_the_disk_of_the_workspace_fills_up(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "old.txt").write_text("old\n")
    model_server.reply(
        tool_call("edit", {"path": "old.txt", "old": "old", "new": LARGE}),
        tool_call("write", {"path": "new.txt", "content": LARGE}),
        text("There is no room."),
    )
    done = run_cli(*RUN, env=model_server.env | full_after(20_000, workspace))
    assert record_of(done.stdout, 0)["text"] == "There is no room."
    assert [result.rpartition(": ")[2] for result in results(model_server.chats[-1]["messages"])] == [
        "No space left on device."
    ] * 2
    assert (workspace / "old.txt").read_text() == "old\n"
    assert not (workspace / "new.txt").exists()
    assert leftovers(workspace) == []


def test_no_room_for_the_output_of_a_command(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.reply(tool_call("shell", {"command": "seq 40000"}), text("Done."))
    shim = full_after(100_000, "/output/")
    done = run_cli(*RUN, env=model_server.env | shim)
    assert record_of(done.stdout, 0)["text"] == "Done."
    assert "Exception ignored" not in done.stderr
    (result,) = results(model_server.chats[-1]["messages"])
    assert result.endswith("40000\n[exit code 0]")
    assert "of 228,894 bytes are in" in result


def test_standard_output_is_full(run_cli: RunCli, start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.reply(text("Done."))
    with Path("/dev/full").open("wb") as full:
        process = start_cli(*RUN, env=model_server.env, stdout=full)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(20) == 2
    assert said == "laguna-agent: cannot write the result to standard output: No space left on device\n"
    resume(run_cli, model_server)


def read_only(command: list[str], home: Path) -> list[str]:
    """The command with `home` as it is on a disk that cannot be written: by a mount where we may, else by rights."""
    if os.geteuid():
        home.chmod(0o500)
        return command
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(home), *command]


def test_a_home_that_cannot_be_written(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    """The session is kept beside it, the person is told so, and finds it again."""
    home, temporary = tmp_path / "bare", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env |= {"HOME": str(home), "TMPDIR": str(temporary)} | model_server.env
    model_server.reply(tool_call("shell", {"command": "echo made > made.txt"}), text("Done."), text("Went on."))

    def run(*args: str) -> tuple[dict[str, object], str]:
        command = read_only([sys.executable, "-m", "laguna_agent", *args], home)
        done = subprocess.run(command, env=env, cwd=workspace, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        record: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return record, done.stderr

    first, said = run(*RUN)
    assert (workspace / "made.txt").read_text() == "made\n"
    assert str(home) in said
    assert str(temporary) in said
    assert said.count("\n") == 1
    second, _ = run("run", "Go on.", "--continue", "--output", "json")
    assert (second["text"], second["session_id"]) == ("Went on.", first["session_id"])
    assert len(model_server.chats[-1]["messages"]) == 6
    assert list(home.iterdir()) == []
    (kept,) = temporary.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    home.chmod(0o700)


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/home", None])
def test_a_home_that_there_cannot_be(
    model_server: ModelServer, workspace: Path, tmp_path: Path, home: str | None
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env |= {"HOME": home or "", "TMPDIR": str(tmp_path)} | model_server.env
    command = [sys.executable, "-m", "laguna_agent", *RUN]
    if home is None:
        # As in a container whose user is in no list: neither a variable nor an entry says where home is.
        del env["HOME"]
        command = ["unshare", "--user", "--map-user=54321", *command]
    model_server.reply(text("Done."))
    done = subprocess.run(command, env=env, cwd=workspace, capture_output=True, text=True, check=False, timeout=60)
    assert record_of(done.stdout, 0)["text"] == "Done.", done.stderr
    assert done.stderr.startswith("warning: ")
    assert done.stderr.count("\n") == 1
    assert list(workspace.iterdir()) == []


def test_a_home_that_is_not_there_yet(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    fresh = tmp_path / "not" / "yet"
    model_server.reply(text("Done."))
    done = run_cli(*RUN, env=model_server.env | {"HOME": str(fresh), "XDG_STATE_HOME": ""})
    assert record_of(done.stdout, 0)["text"] == "Done."
    assert done.stderr == ""
    (log,) = fresh.rglob("log.jsonl")
    assert any(isinstance(record, Prompted) for record in records(log))


def test_a_working_directory_that_is_gone(start_cli: StartCli, model_server: ModelServer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    process = start_cli(*RUN, env=model_server.env, cwd=gone, preexec_fn=lambda: gone.rmdir())
    out, errors = process.communicate(timeout=30)
    assert record_of(out, 2)["outcome"] == "usage"
    assert "cannot be used: No such file or directory" in errors
    assert errors.count("\n") == 1


def test_the_working_directory_goes_away(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, tmp_path: Path
) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "file.txt").write_text("1\n")

    def remove(_: object) -> object:
        shutil.rmtree(doomed)
        return [tool_call("read", {"path": "file.txt"}), tool_call("shell", {"command": "echo still here"})]

    model_server.reply(
        tool_call("shell", {"command": "echo $$ > pids; sleep 0.2"}),
        remove,
        text("It is gone."),  # type: ignore[arg-type]
    )
    process = start_cli(*RUN, "--check", "true", env=model_server.env, cwd=doomed)
    wait_for_file(doomed / "pids", process)
    out, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    record = json.loads(out)
    assert (record["outcome"], record["exit_code"]) in [("completed", 0), ("check_failed", 8)]
    _, read, command = results(model_server.chats[-1]["messages"])
    assert "There is no file file.txt" in read
    assert "could not be started" in command or "exit code" in command
    assert not doomed.exists()
    refused = run_cli("run", "Go on.", "--resume", record["session_id"], "--output", "json", env=model_server.env)
    assert record_of(refused.stdout, 2)["outcome"] == "usage"
    assert str(doomed) in refused.stderr
