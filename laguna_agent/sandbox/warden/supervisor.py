"""Calls that the filter hands over, answered for the process that waits (seccomp_unotify(2)).

Landlock has no right for modes, owners and times of files, nor for priorities of processes, and a filter sees numbers,
never paths. So where neither mounts nor namespaces forbid it, this thread decides. It runs in the guard, outside the
walls. What is in the memory of a process can change while one looks, so a call with a path never goes on by itself: it
is made here. A call that names a process has everything in its registers, and goes on where that process is ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading

from .attributes import CALLS, Call, change
from .ending import parent_of
from .kernel import MACHINE
from .seccomp import handed_over

_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_GO_ON = 1


class Supervisor:
    """Answers what the processes of `warden` ask. `changeable` are real paths below which attributes may change."""

    def __init__(self, listener: int, warden: int, changeable: list[str]) -> None:
        self._listener = listener
        self._warden = warden
        self._changeable = tuple(map(os.fsencode, changeable))
        self._names = handed_over(MACHINE)

    def start(self) -> None:
        """In a thread that lives as long as this process."""
        threading.Thread(target=self._serve, name="supervisor", daemon=True).start()

    def _serve(self) -> None:
        try:
            self._listen()
        finally:
            # Nobody may wait for ever: without a listener the kernel answers that there is no such call.
            os.close(self._listener)

    def _listen(self) -> None:
        while True:
            # The kernel insists on zeros.
            told = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self._listener, _RECEIVE, told)
            except OSError as error:
                # ENOENT: who asked is gone already.
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            self._answer(*_NOTIFICATION.unpack(told))

    def _answer(self, id_: int, thread: int, _flags: int, number: int, _arch: int, _at: int, *arguments: int) -> None:
        error, flags = 0, 0
        call = Call(thread, self._names[number], arguments)
        try:
            if call.name in CALLS:
                change(call, self._changeable, lambda: self._waits(id_))
            elif self._is_ours(_named_process(call)):
                flags = _GO_ON
            else:
                error = errno.EPERM
        except OSError as refusal:
            error = refusal.errno or errno.EPERM
        # Who is gone meanwhile needs no answer.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(id_, 0, -error, flags))

    def _waits(self, id_: int) -> bool:
        """Whether the caller is still there: else its number may already be another's."""
        try:
            fcntl.ioctl(self._listener, _IS_VALID, struct.pack("=Q", id_))
        except OSError:
            return False
        return True

    def _is_ours(self, process: int) -> bool:
        """Whether a process, or the one that a thread belongs to, descends from the warden."""
        while process > 1:
            process = parent_of(process)
            if process == self._warden:
                return True
        return False


def _named_process(call: Call) -> int:
    """The thread or process that a call is about."""
    at = 1 if call.name in ("setpriority", "ioprio_set") else 0
    return call.arguments[at] & 0xFFFFFFFF
