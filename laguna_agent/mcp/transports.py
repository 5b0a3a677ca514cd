"""The three ways to reach a server, as transports of the package `mcp`: a process, streamable HTTP, HTTP with SSE.

Each tells what it has seen of the server (`Evidence`), for the notice that must explain a failure: the package's own
errors say "Connection closed". Importing this module loads the package.
https://modelcontextprotocol.io/specification/2025-11-25/basic/transports
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import anyio
import httpx2
import mcp_types
from anyio.streams.memory import MemoryObjectSendStream
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.process import ServerProcess, Tail
from laguna_agent.sandbox.walls import Walls

HTTP_TIMEOUT = 30.0
HTTP_SILENCE = 600.0
"""Seconds that a stream may stay silent. A call has a shorter time limit, but not while the person is asked."""
BUFFER = 64
"""Messages on their way to a server: one that does not read must not hold up who cancels."""
LAST_WORDS = 0.5
"""Seconds that are left to read what a process wrote before its end."""

Item = SessionMessage | Exception
Streams = tuple["WatchedStream", Any]

for _name in ("mcp", "client", "httpx2", "httpcore2"):
    # The package reports a server's faults on its loggers; with nobody listening they would land on our stderr.
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


@dataclass
class Evidence:
    """What was seen of a server. `ended` is set when it sends nothing any more."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    said: Tail = field(default_factory=Tail)
    exit_code: int | None = None
    refusal: str = ""

    @property
    def text(self) -> str:
        """As the end of a sentence; empty where nothing is known."""
        facts = []
        if self.exit_code is not None:
            facts.append(f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}")
        if self.refusal:
            facts.append(self.refusal)
        known = f" ({', '.join(facts)})" if facts else ""
        return known + (f"; it said: {self.said.text}" if self.said.text else "")


class WatchedStream:
    """What comes from a server; its end is told to `evidence`."""

    def __init__(self, stream: Any, evidence: Evidence) -> None:
        self._stream = stream
        self._ended = evidence.ended

    def __getattr__(self, name: str) -> Any:
        # The package looks for `last_context`, which not every stream has.
        return getattr(self._stream, name)

    async def receive(self) -> Item:
        try:
            item: Item = await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._ended.set()
            raise
        return item

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


@asynccontextmanager
async def reach(
    server: McpServer, cwd: Path, evidence: Evidence, walls: Walls | None = None
) -> AsyncGenerator[Streams]:
    """The server's streams; raises ValueError for a transport that does not exist, and what the transport meets. A
    confined server runs behind `walls`, and not at all without."""
    if server.transport == "stdio":
        async with _process(server, cwd, evidence, walls) as (incoming, outgoing):
            yield WatchedStream(incoming, evidence), outgoing
    elif server.transport == "http":
        client = _http_client(dict(server.headers), evidence=evidence)
        async with (
            client,
            streamable_http_client(server.url, http_client=client) as (incoming, outgoing),
            _buffered(outgoing) as buffer,
        ):
            yield WatchedStream(incoming, evidence), buffer
    elif server.transport == "sse":

        def factory(headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
            return _http_client(headers, evidence=evidence)

        async with (
            sse_client(server.url, server.headers, httpx_client_factory=factory) as (incoming, outgoing),
            _buffered(outgoing) as buffer,
        ):
            yield WatchedStream(incoming, evidence), buffer
    else:
        raise ValueError(f"the transport {server.transport!r} is not supported; stdio, http and sse are")


@asynccontextmanager
async def _buffered(outgoing: Any) -> AsyncGenerator[MemoryObjectSendStream[SessionMessage]]:
    buffer, leaving = anyio.create_memory_object_stream[SessionMessage](BUFFER)

    async def pass_on() -> None:
        async with leaving:
            async for message in leaving:
                await outgoing.send(message)

    async with anyio.create_task_group() as group, buffer:
        group.start_soon(_quietly, pass_on)
        try:
            yield buffer
        finally:
            group.cancel_scope.cancel()


def _http_client(headers: dict[str, str] | None, *, evidence: Evidence) -> httpx2.AsyncClient:
    async def note(response: httpx2.Response) -> None:
        # That a server offers no stream of its own is no refusal.
        if response.status_code >= 400 and response.status_code != 405:
            evidence.refusal = f"HTTP {response.status_code} {response.reason_phrase}".strip()

    timeout = httpx2.Timeout(HTTP_TIMEOUT, read=HTTP_SILENCE)
    return httpx2.AsyncClient(headers=headers, timeout=timeout, event_hooks={"response": [note]})


@asynccontextmanager
async def _process(
    server: McpServer, cwd: Path, evidence: Evidence, walls: Walls | None
) -> AsyncGenerator[tuple[Any, Any]]:
    if not server.command:
        raise ValueError("it has no command")
    if server.confined and walls is None:
        raise ValueError("it must run in the sandbox, and this session has none")
    process = await ServerProcess.start(server, cwd, walls if server.confined else None)
    evidence.said = process.said
    arrived, incoming = anyio.create_memory_object_stream[Item](0)
    outgoing, leaving = anyio.create_memory_object_stream[SessionMessage](BUFFER)

    reading = anyio.CancelScope()

    async def read() -> None:
        async with arrived:
            with reading:
                async for line in process.lines():
                    message = _message(line, process.said)
                    if message is not None:
                        await arrived.send(message)

    async def watch() -> None:
        await process.exited()
        # Its last words may still be in the pipe, which a child that it left behind may hold open for ever.
        reading.deadline = anyio.current_time() + LAST_WORDS

    async def write() -> None:
        async with leaving:
            async for item in leaving:
                line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                if not await process.send(line):
                    evidence.ended.set()
                    return

    try:
        async with anyio.create_task_group() as group:
            for task in (read, write, watch, process.listen):
                group.start_soon(_quietly, task)
            try:
                yield incoming, outgoing
            finally:
                await process.end()
                evidence.exit_code = process.exit_code
                group.cancel_scope.cancel()
    finally:
        for stream in (arrived, incoming, outgoing, leaving):
            stream.close()


async def _quietly(task: Any) -> None:
    """A pipe's end of the session's making is no failure."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await task()


def _message(line: bytes, said: Tail) -> SessionMessage | None:
    """The message of a line. Many servers greet on stdout, where only messages belong: that is kept as what it said."""
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        said.feed(line + b"\n")
        return None
