"""A real loopback model server that says exactly what a test scripts, and remembers what it was asked.

It speaks OpenAI chat.completions over HTTP/1.1 (streamed and not), plus the model listings of OpenAI, llama.cpp and
ollama where a test sets them. It knows nothing of laguna-agent, so a test against it proves the bytes on the wire.

    server.reply(text("Hello"))                                      one answer
    server.reply([reasoning("hm"), tool_call("read", {"path": "a"})])  parts of one answer, in order
    server.reply(http(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}))
    server.reply(stream(text("half"), reset()))                      a connection that dies
    server.reply(lambda body: text(body["model"]))                   an answer made from the posted body
    server.always(text("again"))                                     whatever comes after the queue is empty
A request beyond the script is answered with a 400 that says so, which no client retries.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "test-model"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@dataclass(frozen=True)
class Part:
    """One piece of a scripted answer; `kind` is text, reasoning, call, raw, delay, reset, stall or cut."""

    kind: str
    value: Any = None
    name: str = ""
    id: str | None = None
    field: str = ""
    pieces: int = 4


def text(value: str, *, pieces: int = 4) -> Part:
    """Content, sent in `pieces` chunks."""
    return Part("text", value, pieces=pieces)


def reasoning(value: str, *, field: str = "reasoning_content", pieces: int = 2) -> Part:
    """Thought, under the field that the imitated server uses."""
    return Part("reasoning", value, field=field, pieces=pieces)


def tool_call(name: str, args: dict[str, Any] | str | None = None, *, id: str | None = None, pieces: int = 3) -> Part:
    """A call. `args` as str is sent as it is (broken JSON, say); an `id` of None is numbered, "" is left out."""
    return Part("call", args if isinstance(args, str) else json.dumps(args or {}), name=name, id=id, pieces=pieces)


def raw(value: str | bytes) -> Part:
    """Bytes put on the stream as they are; a str gets its line ends from the caller too."""
    return Part("raw", value.encode() if isinstance(value, str) else value)


def chunk(**fields: Any) -> Part:
    """One SSE event whose JSON is exactly `fields`."""
    return raw(sse(fields))


def delay(seconds: float) -> Part:
    """Silence, then on."""
    return Part("delay", seconds)


def reset() -> Part:
    """The connection is torn down with a TCP reset."""
    return Part("reset")


def stall() -> Part:
    """Silence until the client gives up or the server closes."""
    return Part("stall")


def cut() -> Part:
    """The body ends here, in good order, without a finish."""
    return Part("cut")


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer. With `status` None it is a completion made of `parts`, else a plain response."""

    parts: tuple[Part, ...] = ()
    finish: str | None = None
    usage: dict[str, Any] | None = None
    done: bool = True
    as_json: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    body: bytes = b""


def stream(
    *parts: Part,
    finish: str | None = None,
    usage: dict[str, Any] | None = USAGE,
    done: bool = True,
    headers: dict[str, str] | None = None,
) -> Reply:
    """A streamed completion. `finish` None means stop or tool_calls as the parts say, "" leaves it out."""
    return Reply(parts, finish, usage, done, False, headers or {})


def completion(*parts: Part, finish: str | None = None, usage: dict[str, Any] | None = USAGE) -> Reply:
    """A completion in one JSON body, even where a stream was asked for."""
    return Reply(parts, finish, usage, True, True)


def http(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Reply:
    """A plain response; a body that is neither str nor bytes is sent as JSON."""
    sent = {"Content-Type": "text/plain"}
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body, sent = json.dumps(body).encode(), {"Content-Type": "application/json"}
    return Reply(status=status, body=body, headers=sent | (headers or {}))


def connection(data: bytes = b"", *, torn: bool = False) -> Reply:
    """Bytes in the place of an HTTP answer, then the end of the connection: closed, or torn down with a TCP reset."""
    return Reply(status=0, body=data, done=not torn)


Scripted = Part | Reply | list[Part] | Callable[[Any], "Scripted"]


def sse(data: Any) -> bytes:
    """One SSE event with `data` as JSON."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def split(value: str, pieces: int) -> list[str]:
    """`value` in at most `pieces` runs of about the same length."""
    size = max(1, -(-len(value) // max(1, pieces)))
    return [value[at : at + size] for at in range(0, len(value), size)]


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names are lower case, `body` is decoded JSON or None."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ModelServer:
    """The server. `url` is the base URL for an OpenAI client, `root` the one without /v1.

    `models`, `props` (llama.cpp), `ollama_show` and `ollama_tags` are served when set; `routes` maps (method, path) to
    any other `Reply`. `reply` and `always` script the chat completions.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.models: list[dict[str, Any]] | None = [{"id": MODEL, "object": "model"}]
        self.props: dict[str, Any] | None = None
        self.ollama_show: dict[str, Any] | None = None
        self.ollama_tags: dict[str, Any] | None = None
        self.routes: dict[tuple[str, str], Reply] = {}
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._queue: deque[Scripted] = deque()
        self._always: Scripted | None = None
        self._calls = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def env(self) -> dict[str, str]:
        """Environment that points laguna-agent here."""
        return {"LAGUNA_BASE_URL": self.url, "LAGUNA_MODEL": MODEL}

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The bodies posted to chat/completions, in order."""
        return [r.body for r in self.requests if r.path.endswith("/chat/completions")]

    def reply(self, *replies: Scripted) -> ModelServer:
        """Queue answers, one request each."""
        with self.lock:
            self._queue.extend(replies)
        return self

    def always(self, reply: Scripted) -> ModelServer:
        """Answer every request beyond the queue with this."""
        self._always = reply
        return self

    def forget(self) -> None:
        """Drop the rest of the script."""
        self._queue, self._always = deque(), None

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def next_reply(self, body: Any) -> Reply:
        with self.lock:
            scripted = self._queue.popleft() if self._queue else self._always
        while callable(scripted):
            scripted = scripted(body)
        if scripted is None:
            return http(400, {"error": {"message": "the test scripted no further reply"}})
        if isinstance(scripted, Part):
            return stream(scripted)
        return scripted if isinstance(scripted, Reply) else stream(*scripted)

    def call_id(self, part: Part) -> str:
        if part.id is not None:
            return part.id
        with self.lock:
            self._calls += 1
            return f"call_{self._calls}"

    def listing(self, method: str, path: str) -> Reply | None:
        """The answer to anything but a completion."""
        if (method, path) in self.routes:
            return self.routes[method, path]
        known: dict[tuple[str, str], Any] = {
            ("GET", "/v1/models"): None if self.models is None else {"object": "list", "data": self.models},
            ("GET", "/props"): self.props,
            ("POST", "/api/show"): self.ollama_show,
            ("GET", "/api/tags"): self.ollama_tags,
        }
        found = known.get((method, path))
        return None if found is None else http(200, found)


def _finish(reply: Reply) -> str | None:
    if reply.finish is not None:
        return reply.finish or None
    return "tool_calls" if any(part.kind == "call" for part in reply.parts) else "stop"


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})


def _part_events(part: Part, index: int, call_id: str) -> Iterator[bytes]:
    if part.kind == "text":
        yield from (_event({"content": piece}) for piece in split(part.value, part.pieces))
    elif part.kind == "reasoning":
        yield from (_event({part.field: piece}) for piece in split(part.value, part.pieces))
    elif part.kind == "call":
        opening = {"index": index, "type": "function", "function": {"name": part.name, "arguments": ""}}
        yield _event({"tool_calls": [opening | ({"id": call_id} if call_id else {})]})
        for piece in split(part.value, part.pieces):
            yield _event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def _message(reply: Reply, call_id: Callable[[Part], str]) -> dict[str, Any]:
    content = "".join(part.value for part in reply.parts if part.kind == "text")
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    for part in reply.parts:
        if part.kind == "reasoning":
            message[part.field] = message.get(part.field, "") + part.value
        elif part.kind == "call":
            function = {"name": part.name, "arguments": part.value}
            made_id = call_id(part)
            call = {"type": "function", "function": function} | ({"id": made_id} if made_id else {})
            message.setdefault("tool_calls", []).append(call)
    return message


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            self.answer("POST")

        def answer(self, method: str) -> None:
            posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                body = json.loads(posted) if posted else None
            except ValueError:
                body = None
            headers = {name.lower(): value for name, value in self.headers.items()}
            with server.lock:
                server.requests.append(Received(method, self.path, headers, body))
            try:
                if method == "POST" and self.path.endswith("/chat/completions"):
                    self.complete(server.next_reply(body), bool((body or {}).get("stream")))
                else:
                    self.plain(server.listing(method, self.path.partition("?")[0]) or http(404, "not found"))
            except OSError:
                self.close_connection = True  # the client hung up, as some tests mean it to

        def plain(self, reply: Reply) -> None:
            self.send_response(reply.status or 200)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def complete(self, reply: Reply, streamed: bool) -> None:
            if reply.status == 0:
                self.wfile.write(reply.body)
                self.close_connection = True
                if not reply.done:
                    self.tear_down()
            elif reply.status is not None:
                self.plain(reply)
            elif streamed and not reply.as_json:
                self.send_stream(reply)
            else:
                choice = {"index": 0, "message": _message(reply, server.call_id), "finish_reason": _finish(reply)}
                body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL}
                body["choices"] = [choice]
                if reply.usage is not None:
                    body["usage"] = reply.usage
                self.plain(http(200, body))

        def send_stream(self, reply: Reply) -> None:
            self.send_response(200)
            for name, value in ({"Content-Type": "text/event-stream"} | reply.headers).items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.send_parts(reply):
                finish = _finish(reply)
                if finish is not None:
                    self.put(_event({}, finish))
                if reply.usage is not None:
                    self.put(sse({"id": "chatcmpl-1", "model": MODEL, "choices": [], "usage": reply.usage}))
                if reply.done:
                    self.put(b"data: [DONE]\n\n")
            if not self.rfile.closed:
                self.wfile.write(b"0\r\n\r\n")

        def send_parts(self, reply: Reply) -> bool:
            """False when a part ended the stream."""
            calls = 0
            for part in reply.parts:
                if part.kind == "raw":
                    self.put(part.value)
                elif part.kind == "delay":
                    server.closing.wait(part.value)
                elif part.kind == "cut":
                    return False
                elif part.kind in {"reset", "stall"}:
                    if part.kind == "stall":
                        server.closing.wait()
                    self.tear_down()
                    return False
                else:
                    for event in _part_events(part, calls, server.call_id(part) if part.kind == "call" else ""):
                        self.put(event)
                    calls += part.kind == "call"
            return True

        def tear_down(self) -> None:
            # With a linger of zero the close is a RST; it only happens once rfile no longer holds the socket.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
            self.close_connection = True

        def put(self, data: bytes) -> None:
            if data:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    return Handler
