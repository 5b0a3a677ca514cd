"""From a request to a running program: what happens in the child between fork and exec.

Knows descriptors, signals and exec; must not know walls, which it inherits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
from typing import NoReturn, TypedDict

from .kernel import PR_SET_PDEATHSIG, prctl

REPORT = struct.Struct("=cq")
"""One report on a process: what, and a number. BORN with its own idea of its id (and its credentials, which the kernel
translates), RUNNING, FAILED with errno, ENDED with the exit code."""
BORN, RUNNING, FAILED, ENDED = b"B", b"R", b"F", b"E"


class Request(TypedDict):
    """A process to start; texts are file system texts (surrogate escapes for odd bytes)."""

    argv: list[str]
    environment: dict[str, str]
    cwd: str


def fork(request: Request, stdio: list[int], status: socket.socket, *, die_with_parent: bool) -> tuple[int, int]:
    """Start the program with `stdio` as its 0, 1 and 2. Returns its id, and a descriptor that ends when the program
    runs, or gives errno as text before that."""
    news, tell = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(news)
        os.close(tell)
        raise
    if pid == 0:
        _become(request, stdio, status, tell, die_with_parent=die_with_parent)
    os.close(tell)
    return pid, news


def _become(request: Request, stdio: list[int], status: socket.socket, tell: int, *, die_with_parent: bool) -> NoReturn:
    try:
        os.setsid()
        if die_with_parent and sys.platform == "linux":
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _usual_signals()
        for number, descriptor in enumerate(stdio):
            os.dup2(descriptor, number, inheritable=True)
        os.chdir(request["cwd"])
        status.sendall(REPORT.pack(BORN, os.getpid()))
        # Every other descriptor is close-on-exec.
        os.execvpe(request["argv"][0], request["argv"], request["environment"])
    except (OSError, ValueError) as error:
        os.write(tell, str(getattr(error, "errno", None) or errno.EINVAL).encode())
    finally:
        os._exit(127)


def _usual_signals() -> None:
    """As a program expects them: Python ignores two, the warden catches some, and both would be inherited."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
