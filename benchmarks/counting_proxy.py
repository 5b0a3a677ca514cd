"""A loopback proxy in front of the model server that counts what every arm really asks and gets.

Knows HTTP and llama.cpp's `timings` (it asks for them in every chunk, so that an answer the client breaks off is
counted too). Each completion request is one Exchange with the server's own token counts, the same measure for every
arm. Knows nothing of agents and bugs.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMPLETION_PATHS = ("/completions", "/responses", "/messages")
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive", "host", "accept-encoding"}


@dataclass
class Exchange:
    """One completion request: tokens as the server counted them (`prompt_tokens` includes `cached_tokens`)."""

    path: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    status: int = 0
    broken_off: bool = False
    request: Any = field(default=None, repr=False)
    answer: str = field(default="", repr=False)


class CountingProxy(ThreadingHTTPServer):
    """Forwards everything to `upstream` (a base URL without path), with `token` where it wants one. `take()` hands over
    the exchanges so far."""

    daemon_threads = True

    def __init__(self, upstream: str, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(upstream)
        assert parts.hostname is not None and parts.port is not None
        self.upstream, self.token = (parts.hostname, parts.port), token
        self.exchanges: list[Exchange] = []
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Base URL of the proxy, without `/v1`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self) -> list[Exchange]:
        """Break off what is still running upstream (its agent is dead by now) and return and forget the exchanges."""
        with self.lock:
            open_connections = list(self.connections)
        for connection in open_connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 10
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        with self.lock:
            taken, self.exchanges = self.exchanges, []
        return taken


def write_exchanges(exchanges: list[Exchange], path: Path) -> None:
    """Write the whole traffic of one run as JSON lines, for a reader who wants to know why it failed."""
    path.write_text("".join(json.dumps(asdict(exchange)) + "\n" for exchange in exchanges), encoding="utf-8")


class _Handler(BaseHTTPRequestHandler):
    server: CountingProxy

    def do_GET(self) -> None:
        self._forward(b"", None)

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.split("?")[0]
        if not path.endswith(COMPLETION_PATHS):
            return self._forward(body, None)
        exchange = Exchange(path)
        try:
            exchange.request = json.loads(body)
        except ValueError:
            exchange.request = body.decode(errors="replace")
        else:
            # llama.cpp counts on the way where it is asked to; our own server refuses what it does not know.
            asked = {} if self.server.token else {"timings_per_token": True}
            body = json.dumps(exchange.request | asked).encode()
        with self.server.lock:
            self.server.exchanges.append(exchange)
        return self._forward(body, exchange)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _forward(self, body: bytes, exchange: Exchange | None) -> None:
        started = time.monotonic()
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=600)
        try:
            connection.connect()
        except OSError as error:
            return self.send_error(502, f"the model server does not answer: {error}")
        upstream = connection.sock
        with self.server.lock:
            self.server.connections.add(upstream)
        self.close_connection = True
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_HEADERS}
            if self.server.token:
                headers["Authorization"] = f"Bearer {self.server.token}"
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            if exchange is not None:
                exchange.status = answer.status
            self._copy(answer, exchange)
        except (OSError, http.client.HTTPException):
            if exchange is not None:
                exchange.broken_off = True
        finally:
            connection.close()
            if exchange is not None:
                exchange.seconds = round(time.monotonic() - started, 3)
            with self.server.lock:
                self.server.connections.discard(upstream)

    def _copy(self, answer: http.client.HTTPResponse, exchange: Exchange | None) -> None:
        streamed = "event-stream" in answer.getheader("content-type", "")
        while data := answer.readline() if streamed else answer.read():
            if exchange is not None:
                count(exchange, data)
            self.wfile.write(data)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the exchanges are the log."""


def count(exchange: Exchange, data: bytes) -> None:
    """Take the token counts and the text out of one line of an event stream, or out of a whole JSON answer."""
    try:
        answer = json.loads(data.removeprefix(b"data:"))
    except ValueError:
        return
    timings, usage = answer.get("timings"), answer.get("usage")
    if usage and not timings:
        exchange.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        exchange.prompt_tokens, exchange.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    if timings:
        exchange.cached_tokens = timings.get("cache_n", 0)
        exchange.prompt_tokens = timings["prompt_n"] + exchange.cached_tokens
        exchange.completion_tokens = timings["predicted_n"]
    for choice in answer.get("choices") or []:
        message = choice.get("delta") or choice.get("message") or {}
        exchange.answer += message.get("content") or ""
        if message.get("tool_calls"):
            exchange.answer += json.dumps(message["tool_calls"])
