"""Bytes in and out: the process's stdio taken over for the protocol, lines read from it, a bounded outbox.

Knows file descriptors and newlines, not JSON. POSIX: readiness of descriptors is waited for, so that no thread hangs
in `read` when the program should end.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from typing import Protocol

import anyio

from laguna_agent.errors import LagunaError, UsageError

CHUNK = 1 << 16
LINE_LIMIT = 1 << 26
HIGH_WATER = 1 << 20


class LineTooLong(LagunaError):
    """A line exceeds the limit; it was dropped, and the next one can be read."""


class Source(Protocol):
    """Where bytes come from."""

    async def read(self) -> bytes:
        """Some bytes; none at the end."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None:
        """Write all of `data`; raises OSError when nobody can read it any more."""
        ...


class FdSource:
    """Reads a pipe, socket, terminal or file by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pollable = True

    async def read(self) -> bytes:
        """Up to 64 KiB; empty at the end, also when the other side was torn down."""
        while True:
            if self._pollable:
                try:
                    await anyio.wait_readable(self._fd)
                except PermissionError:
                    # epoll refuses regular files and /dev/null, which never block.
                    self._pollable = False
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                # Somebody who shares the descriptor was faster.
                continue
            except OSError:
                # The other side was torn down (reset, a terminal that is gone): for us that is its end.
                return b""


class FdSink:
    """Writes to a pipe, socket, terminal or file by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        mode = os.fstat(fd).st_mode
        # A terminal shares its description with stderr and the shell, which must stay blocking.
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Write all of `data`; raises OSError when nobody can read it any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._fd)


def take_stdio() -> tuple[int, int]:
    """Private descriptors of stdin and stdout; afterwards fd 0 is empty and fd 1 leads to stderr.

    So no child can read the protocol, and nothing that prints can write into it.
    """
    try:
        # From 3 on: a plain dup would take the number of a standard descriptor that is closed.
        source, target = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
    except OSError as error:
        raise UsageError(
            "acp speaks on stdin and stdout, and one of them is closed; start it from an editor"
        ) from error
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(null, 1)
        os.dup2(null, 2)
    if null > 2:
        os.close(null)
    return source, target


class Lines:
    """Lines of a Source, without their newline. A last line that has none counts too."""

    def __init__(self, source: Source, limit: int = LINE_LIMIT) -> None:
        self._source = source
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        self._dropping = False
        self._ended = False

    async def next(self) -> bytes | None:
        """The next line, None at the end; raises LineTooLong."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                return self._cut(end, end + 1)
            self._searched = len(self._buffer)
            if len(self._buffer) > self._limit:
                self._dropping = True
                self._buffer.clear()
                self._searched = 0
            if self._ended:
                return self._cut(self._searched, self._searched) if self._buffer or self._dropping else None
            data = await self._source.read()
            self._ended = not data
            self._buffer += data

    def _cut(self, end: int, after: int) -> bytes:
        line = bytes(memoryview(self._buffer)[:end])
        del self._buffer[:after]
        self._searched = 0
        if self._dropping or len(line) > self._limit:
            self._dropping = False
            raise LineTooLong(f"the line is longer than {self._limit} bytes")
        return line


class Outbox:
    """Lines on their way out, in order. While more than 1 MiB is unsent `put` waits: that is the back-pressure."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lines: deque[bytes] = deque()
        self._unsent = 0
        self._work = anyio.Event()
        self._room = anyio.Event()
        self._turn = anyio.Lock(fast_acquire=True)
        self._closing = False
        self.broken = False

    async def put(self, line: bytes) -> None:
        """Add a line once there is room; first come, first served, so that a flood does not starve the others."""
        async with self._turn:
            await self._until_below(HIGH_WATER)
            self.post(line)

    async def put_first(self, line: bytes) -> None:
        """Add a line from a reserve of another 1 MiB: for the reader, which must not wait with those who `put`."""
        await self._until_below(2 * HIGH_WATER)
        self.post(line)

    async def _until_below(self, mark: int) -> None:
        while self._unsent >= mark and not self.broken:
            await self._room.wait()

    def post(self, line: bytes) -> None:
        """Add a line at once; for the few small ones that cannot wait."""
        if not self.broken:
            self._lines.append(line)
            self._unsent += len(line)
            self._work.set()

    def close(self) -> None:
        """Let `drain` return as soon as everything is sent."""
        self._closing = True
        self._work.set()

    async def drain(self) -> None:
        """Send until closed. When nobody reads any more, `broken` is set and lines are dropped."""
        while True:
            if not self._lines:
                if self._closing:
                    return
                self._work = anyio.Event()
                await self._work.wait()
                continue
            batch = b"".join(self._lines)
            self._lines.clear()
            try:
                await self._sink.write(batch)
            except OSError:
                self.broken = True
                self._room.set()
                return
            self._unsent -= len(batch)
            self._room.set()
            self._room = anyio.Event()
