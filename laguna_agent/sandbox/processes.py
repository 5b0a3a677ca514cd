"""Finding and signalling everything that a command started.

A process belongs to a command when it is in its group or session, carries its mark in the environment, or descends from
one that does. On systems without /proc only the group can be found. Knows nothing of output or of tools.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "AGENT_COMMAND_MARK"
"""Environment variable that every descendant inherits; it finds those that left the group and lost their parent."""

_PROC = Path("/proc")
_SESSION, _ENV_END = 3, 48
"""Places in `_stat`; the end of the environment is 0 while a process becomes another program."""
_LOOKS = 100


def members(leader: int, mark: str, *, group_only: bool = False) -> set[int]:
    """Process ids of the command whose shell is (or was) `leader`; the dead that wait to be reaped are left out.

    With `group_only`, those in its process group. A negative id stands for a whole group.
    """
    if group_only and not _group_lives(leader):
        return set()
    if not (_PROC / "self" / "stat").exists():
        return {-leader} if _group_lives(leader) else set()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for pid in [int(name) for name in os.listdir(_PROC) if name.isdigit()]:  # noqa: PTH208
        status = _status(pid)
        if status is None or pid == os.getpid():
            continue
        state, parent, group, session = status
        children.setdefault(parent, []).append(pid)
        if state in "ZX":
            dead.add(pid)
        elif group == leader or (not group_only and (session == leader or _marked(pid, mark))):
            found.add(pid)
    waiting = [] if group_only else [*found, leader]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found - dead


def end_marked(mark: str, grace: float) -> None:
    """End what carries `mark`, and its descendants, where another program started it: TERM, then KILL after `grace`
    seconds. Blocking. Finds nothing on systems without /proc, or where the mark was not handed on."""
    if not (_PROC / "self" / "stat").exists():
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        told: set[int] = set()
        # No process has the id, group or session -1: the mark alone decides.
        while (left := members(-1, mark)) and time.monotonic() < deadline:
            send(left - told, number)
            told |= left
            time.sleep(0.02)


def send(pids: set[int], number: signal.Signals) -> None:
    """Signal each; those that are gone meanwhile do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def environment(pid: int) -> bytes:
    """What a process was started with, as /proc/PID/environ has it. Raises OSError where it is gone or another user's.

    A process that is just becoming another program seems to have nothing for a moment; that moment is waited out.
    """
    file = _PROC / str(pid) / "environ"
    for _ in range(_LOOKS):
        if held := file.read_bytes():
            return held
        fields = _stat(pid)
        if int(fields[_ENV_END]):
            # There by now, or really empty.
            return file.read_bytes()
        if fields[0] in b"ZX" or fields[_SESSION] == b"0":
            # The dead and the kernel's own threads never have any.
            break
        time.sleep(0.001)
    return b""


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on; see proc_pid_stat(5). Raises OSError."""
    # The name, in parentheses, may itself hold spaces and parentheses.
    return (_PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()


def _status(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, group, session; None when the process is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[_SESSION])


def _marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in environment(pid)
    except OSError:
        return False
