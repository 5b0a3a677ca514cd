"""A peer on a real socket, driven byte by byte, with methods that exist only for the tests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from msgspec import Struct

from laguna_agent.acp.peer import Call, Peer, RpcError
from laguna_agent.acp.streams import HIGH_WATER, FdSink, FdSource

PATIENCE = 60.0
LINE = 1100
"""Bytes of a line of the flood, and a few more."""


class Echo(Struct):
    """Params of the test methods."""

    value: Any = None


class Answered(Struct):
    """What the test asks of its own client."""

    colour: str


class Service:
    """A peer with methods to poke: `echo`, `wait` (until released), `ask` (the client), `flood`, `bug`, `hook`."""

    def __init__(self) -> None:
        self.peer: Peer
        self.released: anyio.Event
        self.sent = 0
        self.outcomes: list[str] = []

    async def run(self, end: socket.socket) -> None:
        requests = {name: (Echo, getattr(self, f"_{name}")) for name in ("echo", "wait", "ask", "flood", "bug", "hook")}
        requests |= {name: (Echo, getattr(self, f"_{name}")) for name in ("polite", "stray", "bad_hook")}
        fd = end.fileno()
        self.peer = Peer(FdSource(fd), FdSink(fd), requests, {"release": (Echo, self._release)})
        self.released = anyio.Event()
        await self.peer.run(on_close=lambda: self.outcomes.append("closed"))

    async def _echo(self, params: Echo, _: Call) -> Any:
        return {"value": params.value}

    async def _wait(self, params: Echo, _: Call) -> Any:
        try:
            await self.released.wait()
        except anyio.get_cancelled_exc_class():
            self.outcomes.append("cancelled")
            raise
        return {"value": params.value}

    def _polite(self, params: Echo, call: Call) -> Any:
        def end() -> None:
            self.outcomes.append("asked to end")
            self.released.set()

        async def work() -> Any:
            await self.released.wait()
            self.outcomes.append("polite ended")
            return {"value": "ended politely"}

        call.on_cancel(end)

        return work()

    async def _stray(self, params: Echo, _: Call) -> Any:
        """A cancellation that nobody of ours ordered, as a library with tasks of its own may leak it."""
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async def _ask(self, params: Echo, _: Call) -> Any:
        answer = await self.peer.request("colour", Echo(params.value), Answered)
        return {"value": answer.colour}

    async def _flood(self, params: Echo, _: Call) -> Any:
        for number in range(params.value):
            await self.peer.notify("tick", Echo({"number": number, "padding": "x" * 1000}))
            self.sent = number + 1
        return {}

    async def _hook(self, params: Echo, call: Call) -> Any:
        call.after_response(lambda: self.peer.notify("after", Echo()))
        return {"value": "first"}

    async def _bad_hook(self, params: Echo, call: Call) -> Any:
        async def hook() -> None:
            raise ZeroDivisionError("a secret")

        call.after_response(hook)
        return {"value": "first"}

    async def _bug(self, params: Echo, _: Call) -> Any:
        if params.value == "refuse":
            raise RpcError(-32000, "refused", {"why": "test"})
        raise ZeroDivisionError("a secret")

    def _release(self, params: Echo) -> None:
        if params.value == "bug":
            raise ZeroDivisionError("a secret")
        self.released.set()

    def is_full(self) -> bool:
        """Whether the flood has filled the outbox and makes no progress any more."""
        before = self.sent
        for _ in range(3):
            time.sleep(0.2)
            if self.sent * LINE < HIGH_WATER or self.sent != before:
                return False
        return True


class Wire:
    """The other end: raw bytes out, parsed lines in."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(PATIENCE)
        self.socket = end
        self._buffer = b""

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, message: Any) -> None:
        self.raw(json.dumps(message).encode() + b"\n")

    def call(self, id: Any, method: str, value: Any = None) -> None:
        self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": {"value": value}})

    def read(self) -> dict[str, Any]:
        """The next message; EOFError at the end."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        assert isinstance(message, dict), line
        assert message["jsonrpc"] == "2.0", line
        return message

    def until_alive(self) -> list[dict[str, Any]]:
        """Everything that comes before the answer to a ping."""
        self.call("ping", "echo", "pong")
        got = []
        while (message := self.read()) != {"jsonrpc": "2.0", "id": "ping", "result": {"value": "pong"}}:
            got.append(message)
        return got


@contextmanager
def connected() -> Iterator[tuple[Wire, Service]]:
    """A service on its own thread, and the wire to it."""
    service = Service()
    with on_thread(service.run) as end:
        yield Wire(end), service


@contextmanager
def on_thread(serve: Callable[[socket.socket], Awaitable[None]]) -> Iterator[socket.socket]:
    """Serve one end of a connection on its own thread and event loop. At the end it must stop by itself."""
    ours, theirs = socket.socketpair()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(serve, theirs)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failures.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(PATIENCE)
    assert not thread.is_alive(), "the connection does not end when its client is gone"
    assert not failures, failures
