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

from laguna_agent.agent.store import ToolRan
from tests.conftest import RunCli, StartCli
from tests.faults.aftermath import GO_ON, Aftermath, records, results, the_log
from tests.faults.process_runs import RUN, ended, record_of, wait_for_file
from tests.faults.shim import full_after
from tests.model_server import ModelServer, text, tool_call

STATE = Path("laguna-agent")
CONTINUE = ("run", GO_ON, "--continue", "--output", "json")


def state() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / STATE


LARGE = " ".join(map(str, range(10_000)))
"""What does not fit. No piece of it again and again: an answer that repeats itself is cut off."""


def test_the_disk_of_the_log_fills_up(run_cli: RunCli, model_server: ModelServer, aftermath: Aftermath) -> None:
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
    assert any(isinstance(each, ToolRan) for each in records())
    messages = aftermath(done, 2, "", {"first.txt": "1\n"})
    assert results(messages)[0] == "Created first.txt, 1 lines."


def test_no_room_for_a_session(run_cli: RunCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    done = run_cli(*RUN, env=model_server.env | full_after(0, state() / "sessions"))
    record = record_of(done.stdout, 2)
    assert (record["outcome"], done.stderr.count("\n")) == ("storage", 1)
    assert "No space left on device" in done.stderr
    aftermath.none_began(done, 2, {})


def test_the_log_reaches_the_largest_size_of_a_file(
    start_cli: StartCli, model_server: ModelServer, aftermath: Aftermath
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
    aftermath(process, 2, "", {})


def test_the_disk_of_the_workspace_fills_up(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    (workspace / "old.txt").write_text("old\n")
    model_server.reply(
        tool_call("edit", {"path": "old.txt", "old": "old", "new": LARGE}),
        tool_call("write", {"path": "new.txt", "content": LARGE}),
        text("There is no room."),
    )
    done = run_cli(*RUN, env=model_server.env | full_after(20_000, workspace))
    assert record_of(done.stdout, 0)["text"] == "There is no room."
    told = results(aftermath(done, 0, "completed", {"old.txt": "old\n"}))
    assert [result.rpartition(": ")[2] for result in told] == ["No space left on device."] * 2


def test_no_room_for_the_output_of_a_command(run_cli: RunCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    model_server.reply(tool_call("shell", {"command": "seq 40000"}), text("Done."))
    shim = full_after(100_000, "/output/")
    done = run_cli(*RUN, env=model_server.env | shim)
    assert record_of(done.stdout, 0)["text"] == "Done."
    assert "Exception ignored" not in done.stderr
    (result,) = results(aftermath(done, 0, "completed", {}))
    assert result.endswith("40000\n[exit code 0]")
    assert "of 228,894 bytes are in" in result


def test_standard_output_is_full(start_cli: StartCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    model_server.reply(text("Done."))
    with Path("/dev/full").open("wb") as full:
        process = start_cli(*RUN, env=model_server.env, stdout=full)
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(20)
    assert said == "laguna-agent: cannot write the result to standard output: No space left on device\n"
    # The model had finished; it is the telling that failed.
    aftermath(process, 2, "completed", {})


def read_only(command: list[str], home: Path) -> list[str]:
    """The command with `home` as it is on a disk that cannot be written: by a mount where we may, else by rights."""
    if os.geteuid():
        home.chmod(0o500)
        return command
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(home), *command]


def test_a_home_that_cannot_be_written(
    model_server: ModelServer, workspace: Path, tmp_path: Path, aftermath: Aftermath
) -> None:
    """The session is kept beside it, the person is told so, and finds it again."""
    home, temporary = tmp_path / "bare", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env |= {"HOME": str(home), "TMPDIR": str(temporary)} | model_server.env
    model_server.reply(tool_call("shell", {"command": "echo made > made.txt"}), text("Done."))

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = read_only([sys.executable, "-m", "laguna_agent", *args], home)
        return subprocess.run(command, env=env, cwd=workspace, capture_output=True, text=True, check=False, timeout=60)

    first = run(*RUN)
    assert record_of(first.stdout, 0)["text"] == "Done.", first.stderr
    assert str(home) in first.stderr
    assert str(temporary) in first.stderr
    assert first.stderr.count("\n") == 1
    (log,) = temporary.rglob("log.jsonl")
    assert record_of(first.stdout, 0)["session_id"] == log.parent.name

    def go_on() -> None:
        record_of(run(*CONTINUE).stdout, 0)

    aftermath(first, 0, "completed", {"made.txt": "made\n"}, log=log, go_on=go_on)
    assert list(home.iterdir()) == []
    (kept,) = temporary.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    home.chmod(0o700)


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/home", None])
def test_a_home_that_there_cannot_be(
    model_server: ModelServer, workspace: Path, tmp_path: Path, aftermath: Aftermath, home: str | None
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env |= {"HOME": home or "", "TMPDIR": str(tmp_path)} | model_server.env
    command = [sys.executable, "-m", "laguna_agent"]
    if home is None:
        # As in a container whose user is in no list: neither a variable nor an entry says where home is.
        del env["HOME"]
        command = ["unshare", "--user", "--map-user=54321", *command]

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *args], env=env, cwd=workspace, capture_output=True, text=True, check=False, timeout=60
        )

    model_server.reply(text("Done."))
    done = run(*RUN)
    assert record_of(done.stdout, 0)["text"] == "Done.", done.stderr
    assert done.stderr.startswith("warning: ")
    assert done.stderr.count("\n") == 1
    (log,) = tmp_path.rglob("log.jsonl")

    def go_on() -> None:
        record_of(run(*CONTINUE).stdout, 0)

    aftermath(done, 0, "completed", {}, log=log, go_on=go_on)


def test_a_home_that_is_not_there_yet(
    run_cli: RunCli, model_server: ModelServer, tmp_path: Path, aftermath: Aftermath
) -> None:
    fresh = tmp_path / "not" / "yet"
    model_server.reply(text("Done."))
    where = {"HOME": str(fresh), "XDG_STATE_HOME": ""}
    done = run_cli(*RUN, env=model_server.env | where)
    assert record_of(done.stdout, 0)["text"] == "Done."
    assert done.stderr == ""
    (log,) = fresh.rglob("log.jsonl")
    aftermath(done, 0, "completed", {}, log=log, env=where)


def test_a_working_directory_that_is_gone(
    start_cli: StartCli, model_server: ModelServer, tmp_path: Path, aftermath: Aftermath
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    process = start_cli(*RUN, env=model_server.env, cwd=gone, preexec_fn=lambda: gone.rmdir())
    out, errors = process.communicate(timeout=30)
    assert record_of(out, 2)["outcome"] == "usage"
    assert "cannot be used: No such file or directory" in errors
    assert errors.count("\n") == 1
    assert not gone.exists()
    gone.mkdir()
    aftermath.none_began(process, 2, {}, workspace=gone)


@pytest.mark.parametrize("sandbox", ["auto", "none"])
def test_the_working_directory_goes_away(
    start_cli: StartCli,
    run_cli: RunCli,
    model_server: ModelServer,
    tmp_path: Path,
    aftermath: Aftermath,
    sandbox: str,
) -> None:
    """Nothing is done in a directory that nobody can see any more, though a sandbox may still hold it."""
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "file.txt").write_text("1\n")

    def remove(_: object) -> object:
        shutil.rmtree(doomed)
        return [tool_call("read", {"path": "file.txt"}), tool_call("shell", {"command": "echo still here"})]

    model_server.reply(tool_call("shell", {"command": "echo $$ > pids; sleep 0.2"}), remove)  # type: ignore[arg-type]
    model_server.always(text("It is gone."))
    process = start_cli(*RUN, "--check", "true", "--sandbox", sandbox, env=model_server.env, cwd=doomed)
    wait_for_file(doomed / "pids", process)
    out, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    record = json.loads(out)
    assert (record["outcome"], record["text"]) == ("check_failed", "It is gone.")
    assert [(check["when"], check["exit_code"]) for check in record["checks"]][:2] == [("before", 0), ("after", 126)]
    assert not doomed.exists()
    refused = run_cli("run", "Go on.", "--resume", record["session_id"], "--output", "json", env=model_server.env)
    assert record_of(refused.stdout, 2)["outcome"] == "usage"
    assert str(doomed) in refused.stderr
    doomed.mkdir()
    _, read, command = results(aftermath(process, 8, "check_failed", {}, workspace=doomed))
    assert "There is no file file.txt" in read
    assert command == f"The command could not be started: the directory {doomed} is gone."
