"""A stand-in for the llama.cpp wheel: the same names, a server that needs no model, and faults the model file asks for.

The file's words after "GGUF" say what happens: "crash" while loading, "hang" while loading, else it serves; a prompt
that says "die" ends the process in the middle of its answer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class CommonParams(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())


class Server:
    def __init__(self, params: CommonParams) -> None:
        word = Path(params.model.path).read_bytes()[4:].strip()
        print("a line that a native library writes to stdout", flush=True)
        if word == b"crash":
            sys.stderr.write("llama.cpp says: bad tensor\n")
            os._exit(7)
        if word == b"hang":
            time.sleep(600)
        handler = type("Handler", (_Handler,), {"params": params})
        self._http = ThreadingHTTPServer((params.hostnames[0], params.port), handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{self._http.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    params: CommonParams

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/props":
            self._answer(200, {"default_generation_settings": {"n_ctx": self.params.n_ctx}})
        elif self.path == "/v1/models":
            self._answer(200, {"data": [{"id": next(iter(self.params.model_alias))}]})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.headers.get("Authorization") != f"Bearer {self.params.api_keys[0]}":
            self._answer(401, {"error": {"message": "Invalid API Key", "code": 401}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._event({"choices": [{"index": 0, "delta": {"content": "hello"}}]})
        if "die" in body:
            os._exit(9)
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
