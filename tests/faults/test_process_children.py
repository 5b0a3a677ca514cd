"""What a command may do to the program that runs it: write without end, write no text, wait for input, leave others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.agent.store import sessions_directory
from tests.conftest import RunCli, StartCli
from tests.faults.aftermath import Aftermath, results, the_log
from tests.faults.process_runs import RUN, ended, record_of
from tests.model_server import ModelServer, text, tool_call


def run_measured(command: list[str], env: dict[str, str], cwd: Path) -> tuple[subprocess.Popen[bytes], bytes, int]:
    """Run to the end; the process, its standard output, and the most memory that it or one of its children had, in
    bytes."""
    process = subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as stream:
        out = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process, out, usage.ru_maxrss * 1024


@pytest.mark.parametrize("megabytes", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_megabytes_of_output(model_server: ModelServer, workspace: Path, aftermath: Aftermath, megabytes: int) -> None:
    """Memory does not grow with them, nor does the log; the beginning is kept on disk, as far as it says."""
    peaks = []
    for lines in (10, megabytes * 1_000_000 // 67):
        command = f"yes 'a line of exactly sixty-seven bytes with its end, no more, no less' | head -n {lines}"
        model_server.reply(tool_call("shell", {"command": command}), text("Done."))
        command_line = [sys.executable, "-m", "laguna_agent", *RUN]
        process, out, peak = run_measured(command_line, {**os.environ, **model_server.env}, workspace)
        record = record_of(out.decode(), 0)
        assert record["text"] == "Done."
        peaks.append(peak)
        log = sessions_directory() / record["session_id"] / "log.jsonl"
        assert log.stat().st_size < 400_000
        (result,) = results(aftermath(process, 0, "completed", {}, log=log))
    assert peaks[1] - peaks[0] < 30_000_000
    assert len(result) < 20_000
    assert result.endswith("no more, no less\n[exit code 0]")
    assert "characters left out" in result
    state = Path(os.environ["XDG_STATE_HOME"])
    (kept,) = [path for path in state.rglob("command-*.log") if path.stat().st_size > 1_000]
    assert kept.stat().st_size == pytest.approx(min(megabytes * 1_000_000, 64 * 1024 * 1024), abs=100)


def test_output_and_names_that_are_not_utf_8(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, aftermath: Aftermath
) -> None:
    odd = os.fsencode(workspace) + b"/na\xefve.txt"
    Path(os.fsdecode(odd)).write_bytes(b"x\n")
    command = r"printf 'caf\xe9 \xff\xfe\x00 end\n'; ls; touch $'new-\xe9.txt'; printf x >> $'na\xefve.txt'"
    model_server.reply(tool_call("shell", {"command": command}), tool_call("list", {"path": "."}), text("Done."))
    done = run_cli("run", "Do it.", "--approve", "all", "--output", "stream-json", env=model_server.env)
    assert record_of(done.stdout, 0)["text"] == "Done."
    shown, listed = results(model_server.chats[-1]["messages"])
    assert "caf\ufffd \ufffd\ufffd" in shown
    assert "na\ufffdve.txt" in shown
    assert "new-\ufffd.txt" in listed
    files = {os.fsdecode(b"na\xefve.txt"): "x\nx", os.fsdecode(b"new-\xe9.txt"): ""}
    assert results(aftermath(done, 0, "completed", files)) == [shown, listed]
    replayed = run_cli("run", "--replay", the_log().parent.name, "--output", "json")
    assert replayed.returncode == 0, replayed.stderr


def test_programs_that_wait_for_input(start_cli: StartCli, model_server: ModelServer, aftermath: Aftermath) -> None:
    """They find the end of their input at once, and no terminal; the program's own stdin stays open all the while."""
    programs = ["cat", "read -p 'Sure? ' x; echo \"[$x]\"", "python3 -c 'input()'", "cat < /dev/tty"]
    calls = [tool_call("shell", {"command": f"({program}) 2>&1; echo over"}) for program in programs]
    model_server.reply(calls, text("Done."))
    process = start_cli(*RUN, env=model_server.env)
    assert ended(process, 0)["text"] == "Done."
    shown = results(aftermath(process, 0, "completed", {}))
    assert len(shown) == 4
    assert all(result.endswith("over\n[exit code 0]") for result in shown)


@pytest.mark.parametrize("sandbox", ["auto", "none"])
def test_what_a_command_leaves_running_ends_with_the_program(
    run_cli: RunCli, model_server: ModelServer, aftermath: Aftermath, sandbox: str
) -> None:
    """A job, a daemon in a session of its own, and one that has nothing of ours in its environment either."""
    daemon = "setsid sh -c 'echo $$ > daemon; exec sleep 300' & setsid env -i /bin/sleep 301 > /dev/null 2>&1 &"
    model_server.reply(
        tool_call("shell", {"command": "sleep 302", "background": True}),
        tool_call("shell", {"command": f"{daemon} while [ ! -s daemon ]; do sleep 0.02; done"}),
        text("Done."),
    )
    done = run_cli(*RUN, "--sandbox", sandbox, env=model_server.env)
    assert record_of(done.stdout, 0)["text"] == "Done."
    assert len(results(aftermath(done, 0, "completed", {"daemon": None}))) == 2


def test_a_command_that_times_out_takes_its_family_along(
    run_cli: RunCli, model_server: ModelServer, aftermath: Aftermath
) -> None:
    command = "trap '' TERM; (trap '' TERM; setsid sleep 300) & sleep 301"
    model_server.reply(tool_call("shell", {"command": command, "timeout": 0.3}), text("Done."))
    done = run_cli(*RUN, env=model_server.env)
    assert record_of(done.stdout, 0)["text"] == "Done."
    (result,) = results(aftermath(done, 0, "completed", {}))
    assert "timed out after 0.3 s" in result
