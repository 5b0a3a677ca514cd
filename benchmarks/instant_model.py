"""A model that answers at once: N small deltas as fast as they are taken, the first one by itself, before the others.

It speaks what the measured agents speak: OpenAI chat completions, OpenAI responses, Anthropic messages, each streamed
and whole. What it says is known (`text_of`), so a client can tell whether all of it arrived. A request that offers no
tools is an agent's own business (a title, a summary) and is answered with one word. Knows no agent and no editor.

`instant_model` runs it in a process of its own, which ends with its standard input:

    python benchmarks/instant_model.py DELTAS
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from own_process import own_process, serve_until_left

MODEL = "instant-model"
CONTEXT = 200_000
Event = dict[str, Any]


def deltas(count: int) -> list[str]:
    """The pieces of the answer, each a numbered word of five characters: " 0001", " 0002", ..."""
    return [f" {number:04d}" for number in range(1, count + 1)]


def text_of(count: int) -> str:
    """The whole answer."""
    return "".join(deltas(count))


def chat_events(pieces: list[str]) -> tuple[list[Event], list[Event], list[Event]]:
    """What comes before, with and after the text in a stream of https://platform.openai.com/docs/api-reference/chat"""

    def chunk(delta: Event, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}

    usage = {"prompt_tokens": 10, "completion_tokens": len(pieces), "total_tokens": 10 + len(pieces)}
    last = {**chunk({}), "choices": [], "usage": usage}
    before = [chunk({"role": "assistant", "content": ""})]
    return before, [chunk({"content": piece}) for piece in pieces], [chunk({}, "stop"), last]


def chat_answer(pieces: list[str]) -> Event:
    """The same without a stream."""
    usage = {"prompt_tokens": 10, "completion_tokens": len(pieces), "total_tokens": 10 + len(pieces)}
    message = {"role": "assistant", "content": "".join(pieces)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }


def messages_events(pieces: list[str]) -> tuple[list[Event], list[Event], list[Event]]:
    """The same of https://docs.anthropic.com/en/docs/build-with-claude/streaming"""
    start = {**messages_answer([]), "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": 10, "output_tokens": 1}
    before: list[Event] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    text = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    after: list[Event] = [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": len(pieces)}},
        {"type": "message_stop"},
    ]
    return before, text, after


def messages_answer(pieces: list[str]) -> Event:
    """The same without a stream."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "".join(pieces)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": len(pieces)},
    }


def responses_events(pieces: list[str]) -> tuple[list[Event], list[Event], list[Event]]:
    """The same of https://platform.openai.com/docs/api-reference/responses-streaming"""
    answer = responses_answer(pieces)
    item = answer["output"][0]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    created = {**answer, "status": "in_progress", "output": []}
    before: list[Event] = [
        {"type": "response.created", "response": created},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": empty},
    ]
    text = [{"type": "response.output_text.delta", **place, "delta": piece} for piece in pieces]
    after: list[Event] = [
        {"type": "response.output_text.done", **place, "text": "".join(pieces)},
        {"type": "response.content_part.done", **place, "part": item["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": answer},
    ]
    return before, text, after


def responses_answer(pieces: list[str]) -> Event:
    """The same without a stream."""
    content = [{"type": "output_text", "text": "".join(pieces), "annotations": []}]
    item = {"type": "message", "id": "item_1", "status": "completed", "role": "assistant", "content": content}
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(pieces),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10 + len(pieces),
    }
    return {
        "id": "resp_1",
        "object": "response",
        "model": MODEL,
        "status": "completed",
        "output": [item],
        "usage": usage,
    }


PROTOCOLS = {
    "/chat/completions": (chat_events, chat_answer),
    "/messages": (messages_events, messages_answer),
    "/responses": (responses_events, responses_answer),
}


def server_sent(events: list[Event], *, done: bool = False) -> bytes:
    """Server-sent events, each an HTTP chunk of its own. Those that have a type are named by it."""
    frames = []
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        frames.append(f"{name}data: {json.dumps(event)}\n\n".encode())
    if done:
        frames.append(b"data: [DONE]\n\n")
    return b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames)


def stream_of(path: str, pieces: list[str]) -> tuple[bytes, bytes]:
    """A streamed answer as HTTP chunks: up to the first delta, and the rest."""
    before, text, after = PROTOCOLS[path][0](pieces)
    rest = server_sent(text[1:] + after, done=path == "/chat/completions") + b"0\r\n\r\n"
    return server_sent(before + text[:1]), rest


class InstantModel(ThreadingHTTPServer):
    """The server on a free port of loopback; every answer is made before it is asked for."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pieces = {True: deltas(count), False: ["Counting"]}
        self.streams = {
            (path, main): stream_of(path, self.pieces[main]) for path in PROTOCOLS for main in (True, False)
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that is ended drops its connection; anything else is a fault of this server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection. Paths are known by their end: each agent has its own idea of what stands before."""

    server: InstantModel
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/models"):
            model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "benchmark", "context_length": CONTEXT}
            return self._send(200, {"object": "list", "data": [model]})
        return self._send(404, {"error": {"message": f"nothing at {path}"}})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        path = self.path.partition("?")[0]
        if path.endswith("/count_tokens"):
            return self._send(200, {"input_tokens": 10})
        known = next((each for each in PROTOCOLS if path.endswith(each)), None)
        if known is None:
            return self._send(404, {"error": {"message": f"nothing at {path}"}})
        main = bool(request.get("tools"))
        if not request.get("stream"):
            return self._send(200, PROTOCOLS[known][1](self.server.pieces[main]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in self.server.streams[known, main]:
            self.wfile.write(part)
        return None

    def _send(self, status: int, body: Event) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a line for each request would be measured too."""


def instant_model(count: int) -> AbstractContextManager[str]:
    """The server in a process of its own; gives its URL."""
    return own_process(__file__, count)


if __name__ == "__main__":
    serve_until_left(InstantModel(int(sys.argv[1])))
