"""Servers over HTTP: the official package's, and one made by hand that refuses, forgets, and tells what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.mcp.description import McpServer
from tests.mcp.serving import over_http, running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Site:
    """An MCP endpoint out of the standard library, answering in plain JSON. `status` is an HTTP status to refuse with;
    `sessions` are those that it knows; while it is `stuck` it answers no call and no notification."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.sessions: list[str] = []
        self.stuck = False
        self.released = threading.Event()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def described(self) -> McpServer:
        url = f"http://127.0.0.1:{self.server.server_address[1]}/mcp"
        return McpServer("site", "http", url=url, headers={"Authorization": "Bearer sesame"})

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] == "initialize":
            self.sessions.append(f"session-{len(self.sessions) + 1}")
            info = {"name": "site", "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        if message["method"] == "tools/list":
            # Not an object, which the protocol demands and model servers insist on.
            return {"tools": [{"name": "where", "inputSchema": {"type": "object", "properties": None}}]}
        return {"content": [{"type": "text", "text": f"in {self.sessions[-1]}"}]}


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.note()
            self.send(405)

        def do_DELETE(self) -> None:
            self.note()
            self.send(200)

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.note()
            session = self.headers.get("Mcp-Session-Id")
            if site.stuck:
                site.released.wait(60)
            if site.status is not None:
                self.send(site.status)
            elif session is not None and session not in site.sessions:
                self.send(404)
            elif "id" not in message:
                self.send(202)
            else:
                result = site.answer(message)
                self.send(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())

        def note(self) -> None:
            site.requests.append((self.command, {name.lower(): value for name, value in self.headers.items()}))

        def send(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if body:
                self.send_header("Mcp-Session-Id", site.sessions[-1])
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.released.set()
    site.server.shutdown()
    site.server.server_close()


@pytest.mark.anyio
async def test_headers_go_with_every_request_and_the_session_is_ended(site: Site, tmp_path: Path) -> None:
    async with running(tmp_path, site.described) as theirs:
        assert await theirs.offer() == (["site__where"], [])
        assert (await theirs.call("site__where")).text == "in session-1"
    assert all(headers["authorization"] == "Bearer sesame" for _, headers in site.requests)
    assert (site.requests[-1][0], site.requests[-1][1]["mcp-session-id"]) == ("DELETE", "session-1")


@pytest.mark.anyio
async def test_a_server_that_forgets_the_session_is_connected_to_again(site: Site, tmp_path: Path) -> None:
    async with running(tmp_path, site.described) as theirs:
        await theirs.offer()
        site.sessions[:] = ["another"]
        with pytest.raises(ToolError, match="ended while it worked on this call"):
            await theirs.call("site__where")
        names, notices = await theirs.offer()
        assert names == ["site__where"]
        assert notices == ["MCP server site was connected to again: it ended (HTTP 404 Not Found)"]
        assert (await theirs.call("site__where")).text == "in session-2"


@pytest.mark.anyio
async def test_a_server_that_is_stuck_holds_up_nobody(site: Site, tmp_path: Path) -> None:
    async with running(tmp_path, site.described) as theirs:
        await theirs.offer()
        site.stuck = True
        started = anyio.current_time()
        for _ in range(4):
            with anyio.move_on_after(0.2):
                await theirs.call("site__where")
        # The package would give its word of each cancelling but the first five seconds to get out.
        assert anyio.current_time() - started < 10


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "words"), [(401, "HTTP 401 Unauthorized"), (503, "HTTP 503 Service Unavailable")])
async def test_a_refusal_says_what_it_was(site: Site, tmp_path: Path, status: int, words: str) -> None:
    site.status = status
    async with running(tmp_path, site.described) as theirs:
        names, notices = await theirs.offer()
    assert names == []
    assert len(notices) == 1
    assert notices[0].startswith("MCP server site cannot be used: ")
    assert words in notices[0]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_a_server_whose_machine_goes_away(tmp_path: Path, kind: str) -> None:
    with over_http(kind) as described:
        async with running(tmp_path, described) as theirs:
            names, notices = await theirs.offer()
            assert notices == []
            assert (await theirs.call("remote__add", a=1, b=2)).text == "the sum is 3"
            where = (await theirs.call("remote__where")).text
            assert tmp_path.as_uri() in where
            with pytest.raises(ToolError):
                await theirs.call("remote__die", code=1)
            names, notices = await theirs.offer()
            assert names == []
            assert len(notices) == 1
            assert "the next start failed" in notices[0]
