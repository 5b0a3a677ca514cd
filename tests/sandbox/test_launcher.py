"""Commands end, whatever they do, and leave nothing behind that was not meant to stay."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.sandbox.environment import command_environment
from laguna_agent.sandbox.launcher import Launcher

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    launcher = Launcher(tmp_path / "spool")
    yield launcher
    await launcher.aclose()


def running(marker: str) -> list[int]:
    """Living processes with `marker` among their arguments, zombies not counted."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if name.isdigit() and marker.encode() in words.split(b"\0"):
            found.append(int(name))
    return found


async def test_output_exit_code_and_live_text(launcher: Launcher, tmp_path: Path) -> None:
    live: list[str] = []

    async def emit(text: str) -> None:
        live.append(text)

    result = await launcher.run("pwd; echo err >&2; exit 3", tmp_path, timeout=10, emit=emit)
    assert (result.exit_code, result.timed_out, result.strays) == (3, False, 0)
    assert result.output.text(1000) == "".join(live) == f"{tmp_path}\nerr\n"


async def test_standard_input_is_empty(launcher: Launcher, tmp_path: Path) -> None:
    result = await launcher.run("cat; read x; echo $?; python3 -c 'input()'", tmp_path, timeout=10, emit=None)
    assert result.output.text(1000).startswith("1\n")
    assert "EOFError" in result.output.text(1000)


async def test_timeout_ends_children_that_ignore_term_and_left_the_session(launcher: Launcher, tmp_path: Path) -> None:
    command = "trap '' TERM; setsid sleep 861.1 & (trap '' TERM; sleep 861.2) & sleep 861.3"
    started = time.monotonic()
    result = await launcher.run(command, tmp_path, timeout=0.5, emit=None)
    assert result.timed_out
    assert result.exit_code == 128 + signal.SIGKILL
    assert time.monotonic() - started < 20
    assert not [pid for n in (1, 2, 3) for pid in running(f"861.{n}")]


async def test_a_daemon_that_forgot_its_parent_is_found_by_its_mark(launcher: Launcher, tmp_path: Path) -> None:
    # The first child ends at once, so the second belongs to nobody and has a session of its own.
    command = "(setsid bash -c 'sleep 862.1 & disown' &) ; sleep 862.2"
    await launcher.run(command, tmp_path, timeout=0.7, emit=None)
    assert not running("862.1") + running("862.2")


async def test_an_inherited_pipe_holds_nobody_up(launcher: Launcher, tmp_path: Path) -> None:
    started = time.monotonic()
    result = await launcher.run("sleep 863.1 & echo done", tmp_path, timeout=30, emit=None)
    assert time.monotonic() - started < 20
    assert (result.exit_code, result.strays, result.output.text(99)) == (0, 1, "done\n")
    assert not running("863.1")


async def test_a_daemon_with_its_own_session_outlives_a_command_that_ended(launcher: Launcher, tmp_path: Path) -> None:
    started = time.monotonic()
    result = await launcher.run(
        "setsid bash -c 'touch up; exec sleep 864.1' & until [ -e up ]; do sleep 0.05; done",
        tmp_path,
        timeout=30,
        emit=None,
    )
    assert (result.exit_code, result.strays) == (0, 0)
    assert time.monotonic() - started < 20
    pids = running("864.1")
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)


async def test_a_process_substitution_may_finish(launcher: Launcher, tmp_path: Path) -> None:
    result = await launcher.run("echo hi > >(cat > log)", tmp_path, timeout=10, emit=None)
    assert result.strays == 0
    assert (tmp_path / "log").read_text() == "hi\n"


async def test_cancelling_leaves_no_process(launcher: Launcher, tmp_path: Path) -> None:
    with anyio.move_on_after(0.5) as scope:
        await launcher.run("sleep 865.1 & setsid sleep 865.2 & sleep 865.3", tmp_path, timeout=60, emit=None)
    assert scope.cancelled_caught
    assert not [pid for n in (1, 2, 3) for pid in running(f"865.{n}")]


async def test_background_jobs(launcher: Launcher, tmp_path: Path) -> None:
    job = launcher.start("echo one; sleep 0.3; echo two; sleep 866.1", tmp_path)
    await job.wait(0.1)
    assert job.result.exit_code is None
    with anyio.fail_after(20):
        while job.result.output.text(99) != "one\ntwo\n":
            await anyio.sleep(0.05)
    await job.end()
    await job.end()
    assert job.result.exit_code == 128 + signal.SIGTERM
    quick = launcher.start("exit 5", tmp_path)
    await quick.wait(10)
    assert quick.result.exit_code == 5
    launcher.start("sleep 866.2", tmp_path)
    await launcher.aclose()
    assert not running("866.1") + running("866.2")


async def test_an_end_that_is_told_late_has_its_exit_code_all_the_same(launcher: Launcher, tmp_path: Path) -> None:
    """Whoever started the process tells of its end; on a busy machine that takes a moment."""
    job = launcher.start("echo up; sleep 866.3", tmp_path)
    with anyio.fail_after(20):
        while not running("866.3"):
            await anyio.sleep(0.05)
    # The shell has become the only command that it had to run.
    warden = int(Path(f"/proc/{running('866.3')[0]}/stat").read_text().rpartition(") ")[2].split()[1])
    os.kill(warden, signal.SIGSTOP)
    going_on = threading.Timer(0.4, os.kill, (warden, signal.SIGCONT))
    going_on.start()
    await job.end()
    going_on.join()
    assert job.result.exit_code == 128 + signal.SIGTERM


async def test_much_output_is_kept_on_disk_and_not_in_memory(launcher: Launcher, tmp_path: Path) -> None:
    await launcher.run("seq 1 100000", tmp_path, timeout=30, emit=None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await launcher.run(
        "yes 0123456789abcdef | head -c 50000000; echo; echo end", tmp_path, timeout=60, emit=None
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 8 * 1024, f"{grown} KiB for 50 MB of output"
    text = result.output.text(2000)
    assert len(text) < 2300
    assert text.startswith("0123456789abcdef\n")
    assert text.endswith("\nend\n")
    spool = Path(text.partition("all of it is in ")[2].partition(" ...]")[0])
    assert spool.stat().st_size == 50_000_005


async def test_a_slow_reader_of_live_output_does_not_slow_the_command(launcher: Launcher, tmp_path: Path) -> None:
    async def emit(_: str) -> None:
        await anyio.sleep(0.2)

    result = await launcher.run("seq 1 1000000", tmp_path, timeout=20, emit=emit)
    assert result.exit_code == 0
    assert result.output.text(100).endswith("\n1000000\n")


async def test_what_cannot_start_is_said(launcher: Launcher, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="could not be started"):
        await launcher.run("true", tmp_path / "gone", timeout=1, emit=None)
    with pytest.raises(ToolError, match="could not be started"):
        await launcher.run("echo \0", tmp_path, timeout=1, emit=None)


async def test_descriptors_do_not_pile_up(launcher: Launcher, tmp_path: Path) -> None:
    await launcher.run("true", tmp_path, timeout=5, emit=None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await launcher.run("true", tmp_path, timeout=5, emit=None)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_commands_see_no_secrets(launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENROUTER_API_KEY", "LAGUNA_MODEL", "NPM_TOKEN", "PIP_PASSWORD", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:hush-hush@pypi.example/simple")
    result = await launcher.run("env", tmp_path, timeout=5, emit=None)
    assert "hush-hush" not in result.output.text(100_000)
    assert "PAGER=cat" in result.output.text(100_000)


def test_the_environment_is_an_allow_list() -> None:
    kept = command_environment(
        {"HOME": "/h", "GOPATH": "/go", "VIRTUAL_ENV": "/v", "EVIL": "1", "CARGO_REGISTRY_TOKEN": "t"}
    )
    assert kept["HOME"] == "/h"
    assert kept["GOPATH"] == "/go"
    assert kept["VIRTUAL_ENV"] == "/v"
    assert not {"EVIL", "CARGO_REGISTRY_TOKEN"} & kept.keys()


def test_the_program_s_end_ends_jobs_nobody_closed(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from laguna_agent.sandbox.launcher import Launcher
        Launcher(Path(sys.argv[1])).start("trap '' HUP; setsid sleep 867.1 & sleep 867.2", Path(sys.argv[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], timeout=30, check=False)
    assert done.returncode == 0
    assert not running("867.1") + running("867.2")


async def test_ended_jobs_are_forgotten_at_last(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laguna_agent.sandbox.launcher.MAX_JOBS", 2)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(6):
        job = launcher.start("true", tmp_path)
        while job.result.exit_code is None:
            await anyio.sleep(0.01)
    assert len(launcher.jobs) <= 3
    assert len(os.listdir("/proc/self/fd")) <= before + 3 + 2
    running_jobs = [launcher.start("sleep 868.1", tmp_path) for _ in range(2)]
    with pytest.raises(ToolError, match="2 background jobs are running; kill one first"):
        launcher.start("sleep 868.1", tmp_path)
    for job in running_jobs:
        await job.end()


async def test_output_of_an_earlier_session_is_not_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        launcher = Launcher(tmp_path / "spool")
        await launcher.run("seq 1 9999", tmp_path, timeout=5, emit=None)
        await launcher.aclose()
    assert len(list((tmp_path / "spool").iterdir())) == 2
