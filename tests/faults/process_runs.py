"""One run of the real program that something happens to: waiting for the moment, and for its end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import commands_in, descendants, still_alive

PATIENCE = 60.0
RUN = ("run", "Do it.", "--approve", "all", "--output", "json")


def wait_until(what: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Until it is so; fails where the program ends before it."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def wait_for_file(path: Path, process: subprocess.Popen[Any]) -> str:
    """The text of a file that a command of the agent writes, when it has a whole line."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), process)
    return path.read_text()


def ended(process: subprocess.Popen[str], code: int) -> dict[str, Any]:
    """The final record of a process that was left to end, with nothing below it that stays."""
    below = descendants(process.pid)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    require_gone(below)
    return record_of(out, code)


def record_of(out: str, code: int) -> dict[str, Any]:
    """The final record, in the last line."""
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert (record["type"], record["exit_code"]) == ("result", code), record
    return record


def require_gone(processes: set[tuple[int, str]], within: float = PATIENCE) -> None:
    """They end by themselves, at once or soon."""
    deadline = time.monotonic() + within
    while left := still_alive(processes):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.02)


def require_nothing_runs(workspace: Path, within: float) -> None:
    """No command of an agent works there any more."""
    deadline = time.monotonic() + within
    while left := commands_in(workspace):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.02)


def leftovers(workspace: Path) -> list[str]:
    """Names that a killed program may have left where it replaces files."""
    return [name for _, _, names in os.walk(workspace) for name in names if name.endswith(".tmp")]
