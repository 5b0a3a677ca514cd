"""Shell commands of the person's own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from laguna_agent import redaction
from laguna_agent.errors import UsageError
from laguna_agent.terminal.bang import TAIL, Banged, run_bang


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def run(command: str, cwd: Path) -> tuple[Banged, str]:
    pieces: list[str] = []
    return asyncio.run(run_bang(command, cwd, pieces.append)), "".join(pieces)


def test_output_and_exit_code(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("MINE", "yes")
    done, live = run("pwd; echo $MINE; echo oops >&2; cat; exit 3", workspace)
    assert done == Banged("pwd; echo $MINE; echo oops >&2; cat; exit 3", f"{workspace}\nyes\noops\n", 3)
    assert live == done.output_tail


def test_escape_sequences_and_keys_do_not_come_out(workspace: Path) -> None:
    redaction.know("sk-test-0123456789abcdef", "OPENROUTER_API_KEY")
    done, live = run(r"printf '\033[31mred\033[0m \033]0;title\007 sk-test-0123456789abcdef\n'", workspace)
    assert done.output_tail == live == "red  \u27e6redacted: OPENROUTER_API_KEY\u27e7\n"


def test_much_output_is_bounded(workspace: Path) -> None:
    done, live = run("seq 1 100000", workspace)
    assert done.cut and len(done.output_tail) == TAIL and done.output_tail.endswith("99999\n100000\n")
    assert live.startswith("1\n2\n") and live.endswith("100000\n")


def test_what_stays_in_the_background_is_not_waited_for(workspace: Path) -> None:
    done, _ = run("sleep 30 & echo $!", workspace)
    pid = int(done.output_tail)
    try:
        assert done.exit_code == 0
        assert alive(pid)
    finally:
        os.kill(pid, 9)


def test_being_interrupted_ends_all_of_it(workspace: Path) -> None:
    async def work() -> None:
        pieces: list[str] = []
        task = asyncio.create_task(run_bang("sleep 60 & echo $! $$; wait", workspace, pieces.append))
        async with asyncio.timeout(20):
            while "\n" not in "".join(pieces):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while any(alive(int(pid)) for pid in "".join(pieces).split()):
                await asyncio.sleep(0.01)

    asyncio.run(work())


def test_a_signal_and_a_shell_that_is_missing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("kill -TERM $$", workspace)[0].exit_code == 143
    monkeypatch.setenv("SHELL", "/no/such/shell")
    with pytest.raises(UsageError, match="/no/such/shell cannot be started"):
        run("true", workspace)
