"""A stdio server: its processes and its three pipes. It leaves nothing behind, however it or the session ends.

A server runs in a session of its own with a filtered environment. At the end its stdin is closed, which a well-behaved
server takes for the end; then everything that it started (see `sandbox.processes`) gets TERM, then KILL. Its stderr,
and what it prints to stdout that is no message, is kept as a short tail for the notice that tells of a failure.

Knows bytes, lines and processes; must not know MCP. (`mcp.client.stdio` is not used: with it, a grandchild outlives a
server that ends by itself.) https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.pipes import ReadingEnd, WritingEnd
from laguna_agent.sandbox import processes
from laguna_agent.sandbox.confinement import Child, Confinement
from laguna_agent.sandbox.environment import command_environment
from laguna_agent.sandbox.unconfined import lasting
from laguna_agent.sandbox.walls import Walls

TAIL = 400
"""Bytes of stderr that are kept; more belongs into the server's own log."""
LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of one message; a server that sends more is broken."""
EOF_GRACE, TERM_GRACE, GIVE_UP = 1.0, 2.0, 2.0
"""Seconds from the end of stdin to TERM, from TERM to KILL, and from KILL to leaving it."""
POLL = 0.2
_BROKEN = (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)


class Tail:
    """The last bytes of what was written."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        """Take more."""
        self._bytes = (self._bytes + data)[-TAIL:]

    @property
    def text(self) -> str:
        """As one line."""
        return " ".join(self._bytes.decode("utf-8", "replace").split())


class ServerProcess:
    """The processes of one server; make one with `start` and leave it with `end`."""

    def __init__(self, process: Child, mark: str, ends: tuple[WritingEnd, ReadingEnd, ReadingEnd]) -> None:
        self.said = Tail()
        self._process = process
        self._mark = mark
        self._stdin, self._stdout, self._stderr = ends

    @classmethod
    async def start(
        cls, server: McpServer, cwd: Path, walls: Walls | None = None, outer: Mapping[str, str] | None = None
    ) -> ServerProcess:
        """Run the server's command in `cwd`, behind `walls` where there are any. What it sees of the environment is
        filtered, unless `outer` says what that is. Raises OSError or ValueError where it cannot be started,
        SandboxError where the walls do not stand."""
        return await anyio.to_thread.run_sync(cls._start, server, cwd, walls, outer)

    @classmethod
    def _start(
        cls, server: McpServer, cwd: Path, walls: Walls | None, outer: Mapping[str, str] | None
    ) -> ServerProcess:
        mark = secrets.token_hex(8)
        allowed = walls.environment if walls else command_environment(os.environ) if outer is None else dict(outer)
        environment = allowed | server.env | {processes.MARK: mark}
        confinement: Confinement = walls.confinement if walls else lasting()
        stdin, send = os.pipe()
        receive, stdout = os.pipe()
        listen, stderr = os.pipe()
        try:
            process = confinement.start(
                [server.command, *server.args],
                cwd=cwd,
                environment=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        except BaseException:
            for each in (send, receive, listen):
                os.close(each)
            raise
        finally:
            for each in (stdin, stdout, stderr):
                os.close(each)
        _alive[process.pid] = mark
        return cls(process, mark, (WritingEnd(send), ReadingEnd(receive), ReadingEnd(listen)))

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    async def exited(self) -> None:
        """Wait for its end; its pipes may stay open, for a grandchild may hold them."""
        watch = self._process.watch
        if watch is not None:
            await anyio.wait_readable(watch)
        while self.exit_code is None:  # noqa: ASYNC110 - nothing tells of it here
            await anyio.sleep(POLL)

    async def read(self) -> bytes:
        """Some bytes of its stdout; none at the end."""
        with contextlib.suppress(anyio.EndOfStream, *_BROKEN):
            return await self._stdout.receive()
        return b""

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of its stdout, to the end; raises ValueError for one without end."""
        buffer = bytearray()
        while data := await self.read():
            start = len(buffer)
            buffer += data
            if b"\n" in data:
                *whole, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                for line in whole:
                    yield line
            elif start > LONGEST_LINE:
                raise ValueError(f"it sent a line of more than {LONGEST_LINE:,} bytes")

    async def send(self, line: bytes) -> bool:
        """Write a line to its stdin; False where nobody reads it any more."""
        try:
            await self._stdin.send(line)
        except _BROKEN:
            return False
        return True

    async def listen(self) -> None:
        """Read its stderr to the end: a full pipe would stop it."""
        with contextlib.suppress(anyio.EndOfStream, *_BROKEN):
            while True:
                self.said.feed(await self._stderr.receive())

    async def end(self) -> None:
        """End it and everything it started; whatever happens to the caller, that is done before this returns."""
        with anyio.CancelScope(shield=True):
            self._stdin.close()
            await self._gone(EOF_GRACE, leader_only=True)
            for number, patience in ((signal.SIGTERM, TERM_GRACE), (signal.SIGKILL, GIVE_UP)):
                remaining = await anyio.to_thread.run_sync(_members, self._process.pid, self._mark)
                if not remaining:
                    break
                processes.send(remaining, number)
                await self._gone(patience)
            _alive.pop(self._process.pid, None)
            self._stdout.close()
            self._stderr.close()
            if self.exit_code is not None:
                self._process.close()

    async def _gone(self, patience: float, *, leader_only: bool = False) -> None:
        """Wait until it is gone, with everything that it started or without."""
        # A look at /proc costs more than one at the exit code.
        step, deadline = (0.01 if leader_only else 0.05), anyio.current_time() + patience
        while anyio.current_time() < deadline:
            if self.exit_code is not None and (
                leader_only or not await anyio.to_thread.run_sync(_members, self._process.pid, self._mark)
            ):
                return
            await anyio.sleep(step)


def _members(leader: int, mark: str) -> set[int]:
    return processes.members(leader, mark)


_alive: dict[int, str] = {}
"""Leaders and marks of the servers that run."""


@atexit.register
def _end_all() -> None:
    """No server outlives the program, even when nobody closed the session."""
    for number, patience in ((signal.SIGTERM, TERM_GRACE), (signal.SIGKILL, 0.0)):
        deadline = time.monotonic() + patience
        remaining = {pid for leader, mark in _alive.items() for pid in processes.members(leader, mark)}
        processes.send(remaining, number)
        while remaining and time.monotonic() < deadline:
            time.sleep(0.05)
            remaining = {pid for leader, mark in _alive.items() for pid in processes.members(leader, mark)}
        if not remaining:
            return
