"""The warden: a process behind the walls that starts every program of one kind of confinement, and ends them all.

It is started with nothing but the standard library (`python -I -S`), gets its rules and then one request after the
other over a Unix socket, and lives exactly as long as that socket. The modules of this package are imported relatively:
there the package is called `warden`, and nothing of the rest of the program exists.

A request is one byte on the socket with descriptors: a file with the request as JSON, and for a process its 0, 1, 2 and
a socket for reports on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from .apart import fork_apart
from .capabilities import drop_all
from .ending import count, end_all, guard, kill_all
from .kernel import PR_SET_CHILD_SUBREAPER, prctl
from .starting import ENDED, FAILED, REPORT, RUNNING, fork
from .supervisor import Supervisor
from .walls import Rules, hide, put_up

LOOK_EVERY = 0.25
"""Seconds between two counts of the processes, while there are any."""
_DESCRIPTORS = 5


def main() -> None:
    """Serve the socket whose descriptor is the first argument, until it ends; the second is that of this program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    os.close(int(sys.argv[2]))
    first = _receive(control)
    if first is None:
        return
    rules: Rules = _read_json(first[0])
    try:
        link = _leave_a_guard(control, rules) if rules["kernel"] and not rules["own"] else None
        standing = put_up(rules)
        _hand_over(standing.listener, link)
    except (OSError, ValueError) as error:
        control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    control.sendall(json.dumps({"landlock": standing.landlock}).encode() + b"\n")
    Warden(control, rules).serve()


def _leave_a_guard(control: socket.socket, rules: Rules) -> socket.socket:
    """Without a pid namespace a program could kill the warden, and its processes would be free to stay. So the warden
    becomes the child of a process outside the walls, which none of them may signal, which inherits them all, and which
    supervises their calls. Returns, in the child, where the guard waits for the filter's listener. Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair()
    pid = fork_apart() if rules["apart"] else os.fork()
    if pid == 0:
        ours.close()
        return theirs
    control.close()
    theirs.close()
    if rules["walls"]:
        # What it does for a process, that process could do itself but for the filter.
        drop_all()
    hide()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    for listener in descriptors:
        Supervisor(listener, pid, rules["changeable"]).start()
    guard(pid)
    os._exit(0)


def _hand_over(listener: int | None, link: socket.socket | None) -> None:
    """Give the guard the filter's listener, or word that there is none."""
    if link is not None:
        socket.send_fds(link, [b"!"], [] if listener is None else [listener])
        link.close()
    if listener is not None:
        os.close(listener)


class Warden:
    """The state of one: the processes it started and that nobody has heard the end of."""

    def __init__(self, control: socket.socket, rules: Rules) -> None:
        self._control = control
        self._rules = rules
        self._running: dict[int, socket.socket] = {}
        self._starting: dict[int, tuple[int, socket.socket]] = {}
        # Only where there is no /proc to find processes by.
        self._groups: set[int] = set()
        self._alone = True
        self._look_at = 0.0
        self._wake, self._waker = os.pipe()
        for each in (self._wake, self._waker):
            os.set_blocking(each, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        # A handler must exist for the wake-up to be written.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def serve(self) -> None:
        """Until the socket ends; then nothing that was started is left."""
        while True:
            ready = self._wait()
            for news in ready & self._starting.keys():
                self._started(news)
            if self._control.fileno() in ready and not self._accept():
                break
            self._reap()
            self._end_an_explosion()
        end_all(own=self._rules["own"], groups=self._groups)

    def _wait(self) -> set[int]:
        """The descriptors that have something to say."""
        poll = select.poll()
        for descriptor in (self._control.fileno(), self._wake, *self._starting):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if self._alone else LOOK_EVERY * 1000)}
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        return ready

    def _end_an_explosion(self) -> None:
        """The kernel's limit of processes does not hold for root."""
        now = time.monotonic()
        if not self._alone and now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if count(own=self._rules["own"]) > self._rules["processes"]:
                kill_all(own=self._rules["own"], groups=self._groups)

    def _accept(self) -> bool:
        received = _receive(self._control)
        if received is None:
            return False
        request, *stdio, reports = received
        status = socket.socket(fileno=reports)
        try:
            pid, news = fork(_read_json(request), stdio, status, die_with_parent=not self._rules["own"])
        except OSError as error:
            _report(status, FAILED, error.errno or 0)
            status.close()
        else:
            self._alone = False
            self._starting[news] = pid, status
        finally:
            for descriptor in stdio:
                os.close(descriptor)
        return True

    def _started(self, news: int) -> None:
        """A child has become its program, or could not."""
        pid, status = self._starting.pop(news)
        text = os.read(news, 32)
        os.close(news)
        if text:
            _report(status, FAILED, int(text))
            status.close()
        else:
            _report(status, RUNNING, 0)
            self._running[pid] = status
            if not self._rules["kernel"]:
                self._groups.add(pid)

    def _reap(self) -> None:
        """Hear of every end; those that were orphaned came to this process."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._alone = True
                return
            if pid == 0:
                return
            # It can end before its start was heard of.
            for news in [news for news, (starting, _) in self._starting.items() if starting == pid]:
                self._started(news)
            reports = self._running.pop(pid, None)
            if reports is not None:
                _report(reports, ENDED, os.waitstatus_to_exitcode(status))
                reports.close()


def _report(status: socket.socket, what: bytes, number: int) -> None:
    # Nobody may be listening any more.
    with contextlib.suppress(OSError):
        status.sendall(REPORT.pack(what, number))


def _receive(control: socket.socket) -> list[int] | None:
    """The descriptors of the next request; None at the end."""
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    try:
        data, descriptors, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS, flags)
    except ConnectionError:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors if data else None


def _read_json(descriptor: int) -> Any:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return json.loads(file.read())
