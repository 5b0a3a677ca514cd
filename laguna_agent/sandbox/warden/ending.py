"""Counting and ending everything that a warden started, in a pid namespace of its own or without one.

Knows /proc; must not know requests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

_PATIENCE = 5.0


def count(*, own: bool) -> int:
    """Processes that the warden answers for, itself included."""
    return sum(name.isdigit() for name in os.listdir("/proc")) if own else len(_descendants()) + 1  # noqa: PTH208


def kill_all(*, own: bool, groups: Iterable[int] = ()) -> None:
    """Kill everything that this process answers for, but not itself; reaping is left to the caller. `groups` are
    process groups, for systems without /proc."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    if own:
        # Process 1 of a namespace: everything else in it, and nothing outside.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    else:
        _kill_descendants()


def end_all(*, own: bool, groups: Iterable[int] = ()) -> None:
    """Kill and reap until nothing is left, or for a few seconds when the kernel does not let something die."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        kill_all(own=own, groups=groups)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def guard(warden: int) -> None:
    """Wait for the end of `warden`, then end what it has left behind. The caller is the reaper of all of them."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while os.waitpid(-1, 0)[0] != warden:
        pass
    end_all(own=False)


def _kill_descendants() -> None:
    """Stopped first, all of them, so that none makes another while the rest is killed."""
    stopped: set[int] = set()
    while new := _descendants() - stopped:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants() -> set[int]:
    """Every living process below this one; orphans are its children too, for it is a reaper."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH208, PTH112
        if name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = _state(name)
                if state not in (b"Z", b"X"):
                    children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def parent_of(process: int) -> int:
    """The parent of a process, or of the one that a thread belongs to; 0 where there is none."""
    try:
        return int(_state(str(process))[1])
    except OSError:
        return 0


def _state(process: str) -> tuple[bytes, bytes]:
    """The letter of its state, and its parent's number. Raises OSError."""
    with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123
        # The name, in parentheses, may itself hold spaces and parentheses.
        state, parent = file.read().rpartition(b") ")[2].split()[:2]
    return state, parent
