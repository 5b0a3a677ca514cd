"""The two ends of pipes to a process that something else started, as asynchronous streams. Knows descriptors only."""

from __future__ import annotations

import os

import anyio


class Pipe:
    """One end; `close` may be called twice, and wakes whoever waits for it."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            anyio.notify_closing(descriptor)
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor < 0:
            raise anyio.ClosedResourceError
        return self._descriptor


class ReadingEnd(Pipe):
    """What a process writes."""

    async def receive(self) -> bytes:
        """The next bytes. Raises EndOfStream, ClosedResourceError."""
        while True:
            try:
                data = os.read(self._open(), 65536)
            except BlockingIOError:
                await anyio.wait_readable(self._open())
                continue
            if not data:
                raise anyio.EndOfStream
            return data


class WritingEnd(Pipe):
    """What a process reads."""

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises BrokenResourceError where nobody reads any more, ClosedResourceError."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._open(), rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._open())
            except BrokenPipeError:
                raise anyio.BrokenResourceError from None
