"""Our server in a thread over a backend that a test scripts, and plain HTTP to ask it with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import anyio

from laguna_agent.backend.base import Backend, Delta, Finished, ModelInfo, Request, TextDelta
from laguna_agent.serve.application import Served, application
from laguna_agent.serve.delivery import Desk
from laguna_agent.serve.guard import LOOPBACK_NAMES
from laguna_agent.serve.process import Server, listening, read_address

TOKEN = "a-token-of-the-tests-1234"
MODEL = "served-model"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}

Answering = Callable[[Request], AsyncGenerator[Delta]]


async def hello(_: Request) -> AsyncGenerator[Delta]:
    yield TextDelta("Hello")
    yield Finished("stop")


class Scripted:
    """A backend whose answers are an async generator of the test's; it notes what it was asked and what was closed."""

    name = "scripted"
    target = "nowhere"

    def __init__(self, answering: Answering = hello) -> None:
        self.answering = answering
        self.requests: list[Request] = []
        self.closed = threading.Event()
        self.info = ModelInfo(MODEL, context_length=4096)

    async def describe(self, model: str) -> ModelInfo:
        return self.info

    async def models(self) -> list[ModelInfo]:
        return [self.info]

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        self.requests.append(request)
        try:
            async for delta in self.answering(request):
                yield delta
        finally:
            self.closed.set()

    async def aclose(self) -> None:
        pass


class Client:
    """HTTP to the server, one connection a request. `headers` of None are left out."""

    def __init__(self, port: int, desk: Desk, stop: Callable[[], None]) -> None:
        self.port = port
        self.desk = desk
        self.stop = stop

    def open(self, body: Any = HELLO, path: str = "/v1/chat/completions", **headers: str | None) -> HTTPResponse:
        """Send a request; its answer is for the test to read and close. A body of None makes it a GET."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        wanted: dict[str, str | None] = {"Authorization": f"Bearer {TOKEN}"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in wanted.items() if value is not None}
        connection.request("GET" if sent is None else "POST", path, sent, given)
        return connection.getresponse()

    def ask(self, body: Any = HELLO, path: str = "/v1/chat/completions", **headers: str | None) -> tuple[int, Any]:
        """(status, decoded JSON)."""
        response = self.open(body, path, **headers)
        with response:
            return response.status, json.loads(response.read())

    def stream(self, **fields: Any) -> str:
        """The whole event stream of an answer."""
        with self.open(HELLO | {"stream": True} | fields) as response:
            assert response.status == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            return response.read().decode()


@contextmanager
def serving(backend: Backend, limit: int = 64) -> Iterator[Client]:
    """The real server over `backend` on a free port of loopback."""
    ready, desk = threading.Event(), Desk(limit)
    servers: list[Server] = []
    app = application(Served(backend, MODEL), desk, token=TOKEN, hosts=LOOPBACK_NAMES)
    with listening(read_address("127.0.0.1", 0)) as (sock, address):

        async def run() -> None:
            servers.append(Server(app, desk, ready.set))
            await servers[0].serve([sock])

        def stop() -> None:
            servers[0].should_exit = True

        thread = threading.Thread(target=anyio.run, args=(run,))
        thread.start()
        assert ready.wait(20)
        yield Client(address.port, desk, stop)
        stop()
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what the server does in its own time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)
