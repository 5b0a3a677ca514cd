"""A server over HTTP that sends the client elsewhere: what it was given stays with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from laguna_agent.mcp import connection
from laguna_agent.mcp.description import McpServer
from tests.mcp.serving import running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def site(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str | None]]]:
    """A server of the standard library; its address, and the Authorization of each request that came."""
    came: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            came.append(self.headers.get("Authorization"))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()
        server.server_close()


def refuse(request: BaseHTTPRequestHandler) -> None:
    request.send_response(404)
    request.send_header("Content-Length", "0")
    request.end_headers()


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_takes_nothing_elsewhere(tmp_path: Path, transport: str, status: int) -> None:
    with site(refuse) as (elsewhere, there):

        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            request.send_header("Location", f"{elsewhere}/mcp")
            request.send_header("Content-Length", "0")
            request.end_headers()

        with site(redirect) as (here, came):
            server = McpServer("s", transport, url=f"{here}/mcp", headers={"Authorization": "Bearer sesame"})
            async with running(tmp_path, server) as theirs:
                names, (notice,) = await theirs.offer()
        assert names == []
        assert "cannot be used" in notice
        assert set(came) == {"Bearer sesame"}
        assert there == []


@pytest.mark.anyio
async def test_an_sse_server_cannot_name_another_for_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 3.0)
    with site(refuse) as (elsewhere, there):

        def name_another(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Type", "text/event-stream")
            request.end_headers()
            request.wfile.write(f"event: endpoint\ndata: {elsewhere}/post\n\n".encode())

        with site(name_another) as (here, _):
            server = McpServer("s", "sse", url=f"{here}/sse", headers={"Authorization": "Bearer sesame"})
            async with running(tmp_path, server) as theirs:
                names, _ = await theirs.offer()
        assert names == []
        assert there == []
