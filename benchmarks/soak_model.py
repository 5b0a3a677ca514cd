"""A model that works without end: for each prompt it reads a file, changes a line, looks at the result, and says so.

It speaks OpenAI chat completions, streamed, counts a token for every four bytes of a prompt, and keeps of each request
how many of its bytes are the beginning of the request before, which is what a server's prefix cache would have. Asked
for a summary of the conversation it gives one. Knows no agent.

`soak_model` runs it in a process of its own (`own_process.py`), which ends with its standard input:

    python benchmarks/soak_model.py CONTEXT
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from own_process import own_process, serve_until_left

MODEL = "soak-model"
BYTES_PER_TOKEN = 4
Json = dict[str, Any]


def prompt_bytes(body: Json) -> list[bytes]:
    """What a server reads of a request, in order: the tools, then a part for each message."""
    parts = [body.get("tools") or [], *body["messages"]]
    return [json.dumps(part, ensure_ascii=False).encode() for part in parts]


def shared_bytes(before: list[bytes], now: list[bytes]) -> int:
    """The length of what both begin with."""
    shared = 0
    for old, new in zip(before, now, strict=False):
        if old == new:
            shared += len(new)
            continue
        return shared + next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    return shared


def answer(messages: list[Json]) -> tuple[str, Json | None]:
    """What the model says to a conversation, and what it calls."""
    prompt = max(at for at, message in enumerate(messages) if message["role"] == "user")
    asked = _text(messages[prompt])
    found = re.search(r"Turn (\d+): raise VALUE in (\S+) by one", asked)
    if found is None or "# Summary of the rest" in asked:
        # A conversation that was compacted in the middle of a turn has its prompt in another place.
        later = re.findall(r"Turn (\d+): raise VALUE in (\S+) by one", asked)
        if "Write only the summary" in asked or not later:
            return "## Goal\nRaise the values, as asked.\n## State\n" + "All was done as asked. " * 40, None
        found = re.fullmatch(r"(\d+) (.*)", " ".join(later[-1]))
    assert found is not None
    number, path = found.groups()
    results = [_text(message) for message in messages[prompt + 1 :] if message["role"] == "tool"]
    thought = f"I look at turn {number}. " * 8
    match len(results):
        case 0:
            return thought, {"name": "read", "arguments": {"path": path}}
        case 1:
            value = re.findall(r"VALUE = (\d+)", results[-1])
            old = int(value[-1]) if value else 0
            arguments = {"path": path, "old": f"VALUE = {old}", "new": f"VALUE = {old + 1}"}
            return thought, {"name": "edit", "arguments": arguments}
        case 2:
            command = f"git diff --stat -- {path} | tail -1; head -c 1500 {path}"
            return thought, {"name": "shell", "arguments": {"command": command}}
    return f"Turn {number} is done: VALUE in {path} is one more than it was, and the diff shows that line alone.", None


def _text(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class SoakModel(ThreadingHTTPServer):
    """The server; `requests` holds for each request its bytes and how many the one before began with."""

    daemon_threads = True

    def __init__(self, context: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context = context
        self.requests: list[tuple[int, int]] = []
        self.before: list[bytes] = []
        self.calls = 0

    def take(self, body: Json) -> Json:
        """Account for a request; gives its usage."""
        now = prompt_bytes(body)
        size, shared = sum(map(len, now)), shared_bytes(self.before, now)
        self.before = now
        self.requests.append((size, shared))
        tokens = size // BYTES_PER_TOKEN
        usage: Json = {"prompt_tokens": tokens, "completion_tokens": 60, "total_tokens": tokens + 60}
        return usage | {"prompt_tokens_details": {"cached_tokens": shared // BYTES_PER_TOKEN}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: SoakModel

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/models"):
            model = {"id": MODEL, "object": "model", "created": 1, "context_length": self.server.context}
            return self._send(200, {"object": "list", "data": [model]})
        if path == "/requests":
            return self._send(200, self.server.requests)
        return self._send(404, {"error": {"message": f"nothing at {path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        usage = self.server.take(body)
        words, call = answer(body["messages"])
        deltas: list[Json] = [{"content": words[at : at + 5]} for at in range(0, len(words), 5)]
        if call is not None:
            self.server.calls += 1
            text, call_id = json.dumps(call["arguments"]), f"call_{self.server.calls}"
            first = {"index": 0, "id": call_id, "type": "function", "function": {"name": call["name"], "arguments": ""}}
            pieces = [text[at : at + 6] for at in range(0, len(text), 6)]
            deltas = [{"reasoning_content": delta["content"]} for delta in deltas]
            deltas.append({"tool_calls": [first]})
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
        choices: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop" if call is None else "tool_calls"})
        events: list[Json] = [{"id": "1", "model": MODEL, "choices": [choice]} for choice in choices]
        events.append({"id": "1", "model": MODEL, "choices": [], "usage": usage})
        data = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self._send(200, data.encode(), "text/event-stream")

    def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a line for each request would be measured too."""


def soak_model(context: int) -> AbstractContextManager[str]:
    """The server in a process of its own; gives its URL."""
    return own_process(__file__, context)


if __name__ == "__main__":
    serve_until_left(SoakModel(int(sys.argv[1])))
