"""Deltas as chat.completions: the chunks of a stream, or one whole completion. The mirror of `ChunkDecoder`.

Knows the protocol's spelling and nothing of HTTP. A chunk is made here and nowhere else: the whole completion is the
sum of the chunks that would have been streamed.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from laguna_agent.backend.base import (
    Delta,
    Finished,
    FinishReason,
    NoticeDelta,
    ProgressDelta,
    ReasoningDelta,
    RetryDelta,
    TextDelta,
    TokenDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.wire import encode_json
from laguna_agent.errors import ProviderUnavailable

DONE = b"data: [DONE]\n\n"
_UNLIKELIEST = -9999.0
"""JSON has no infinity; OpenAI's number for a token that cannot come."""

# OpenAI's own reasons only, for clients that know no other; a refusal is nearest to what its filter does.
_FINISH: dict[FinishReason, str] = {"refusal": "content_filter"}


class ChunkWriter:
    """The chunks of one answer, as JSON objects. Notices and progress are no part of it and bring none.

    Usage is held until the end, for it has a chunk of its own behind the finish; tokens until the text that they
    complete. Calls without an id get one. Raises ProviderUnavailable where what was sent has turned out void.
    """

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._model = model
        self._include_usage = include_usage
        self._start_over()
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def _start_over(self) -> None:
        self.begun = False
        self.finished = False
        self._usage: Usage | None = None
        self._tokens: list[dict[str, Any]] = []
        self._calls: set[int] = set()

    def write(self, delta: Delta) -> list[dict[str, Any]]:
        """The chunks that `delta` brings: none, one, or at the end two."""
        if isinstance(delta, TextDelta):
            return self._chunk({"content": delta.text})
        if isinstance(delta, ReasoningDelta):
            return self._chunk(_thought(delta))
        if isinstance(delta, ToolCallDelta):
            return self._chunk({"tool_calls": [self._call(delta)]})
        if isinstance(delta, TokenDelta):
            self._tokens.append(_token(delta))
        elif isinstance(delta, UsageDelta):
            self._usage = delta.usage
        elif isinstance(delta, RetryDelta):
            self._retry(delta)
        elif isinstance(delta, Finished):
            return self._end(delta.reason)
        return []

    def progress(self, delta: ProgressDelta) -> dict[str, Any]:
        """A chunk in llama.cpp's form that says how much of the prompt is read; it is no part of the answer."""
        read = {"total": delta.total, "processed": delta.done}
        return self._head | {"choices": [], "prompt_progress": read}

    def _retry(self, delta: RetryDelta) -> None:
        if self.begun:
            # The protocol has no word for "forget what I said".
            raise ProviderUnavailable(f"the answer broke off and begins anew: {delta.reason}", retryable=True)
        self._start_over()

    def _call(self, delta: ToolCallDelta) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": delta.arguments}
        call: dict[str, Any] = {"index": delta.index}
        if delta.name:
            function["name"] = delta.name
        if delta.index not in self._calls:
            self._calls.add(delta.index)
            call |= {"id": delta.id or f"call_{secrets.token_hex(8)}", "type": "function"}
        return call | {"function": function}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        if not self.begun:
            delta = {"role": "assistant"} | delta
        self.begun = True
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if self._tokens:
            choice["logprobs"] = {"content": self._tokens, "refusal": None}
            self._tokens = []
        return [self._head | {"choices": [choice]}]

    def _end(self, reason: FinishReason) -> list[dict[str, Any]]:
        self.finished = True
        chunks = self._chunk({}, _FINISH.get(reason, reason))
        if self._include_usage and self._usage is not None:
            chunks.append(self._head | {"choices": [], "usage": _usage(self._usage)})
        return chunks


class WholeAnswer:
    """A completion in one piece. `add` takes the deltas in order; what a retry voids is forgotten."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._start_over()

    def _start_over(self) -> None:
        self._writer = ChunkWriter(self._model, include_usage=True)
        self._head: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._details: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._tokens: list[dict[str, Any]] = []
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._writer.finished

    def add(self, delta: Delta) -> None:
        """Take the next delta."""
        if isinstance(delta, RetryDelta):
            self._start_over()
            return
        for chunk in self._writer.write(delta):
            self._head = self._head or chunk
            self._usage = chunk.get("usage", self._usage)
            for choice in chunk["choices"]:
                self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice["delta"]
        for name in ("content", "reasoning_content"):
            if name in delta:
                self._texts.setdefault(name, []).append(delta[name])
        self._details += delta.get("reasoning_details", ())
        self._tokens += (choice.get("logprobs") or {}).get("content", ())
        self._finish = choice["finish_reason"] or self._finish
        for piece in delta.get("tool_calls", ()):
            call = self._calls.setdefault(piece["index"], {"id": "", "type": "function", "name": "", "arguments": []})
            call["id"] = piece.get("id", call["id"])
            call["name"] = piece["function"].get("name", call["name"])
            call["arguments"].append(piece["function"]["arguments"])

    def completion(self) -> bytes:
        """The JSON body."""
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        message |= {name: "".join(pieces) for name, pieces in self._texts.items()}
        if self._details:
            message["reasoning_details"] = self._details
        if self._calls:
            message["tool_calls"] = [_whole_call(self._calls[index]) for index in sorted(self._calls)]
        elif message["content"] is None:
            message["content"] = ""
        logprobs = {"content": self._tokens, "refusal": None} if self._tokens else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self._finish}
        body = {name: self._head[name] for name in ("id", "created", "model")}
        body |= {"object": "chat.completion", "choices": [choice]}
        if self._usage is not None:
            body["usage"] = self._usage
        return encode_json(body)


def event(chunk: dict[str, Any]) -> bytes:
    """A chunk as a server-sent event."""
    return b"data: " + encode_json(chunk) + b"\n\n"


def comment(delta: NoticeDelta | ProgressDelta | None) -> bytes:
    """A line that every client passes over, no proxy takes for silence, and a person who looks can read."""
    if delta is None:
        return b": working\n\n"
    if isinstance(delta, NoticeDelta):
        return f": {' '.join(delta.text.split())}\n\n".encode("utf-8", "replace")
    measure = f" {delta.done}/{delta.total}" if delta.total else ""
    return f": {delta.stage}{measure}\n\n".encode()


def _thought(delta: ReasoningDelta) -> dict[str, Any]:
    thought: dict[str, Any] = {"reasoning_content": delta.text} if delta.text else {}
    return thought | ({"reasoning_details": list(delta.details)} if delta.details else {})


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": "".join(call["arguments"]) or "{}"}
    return {"id": call["id"], "type": "function", "function": function}


def _token(delta: TokenDelta) -> dict[str, Any]:
    top = [{"token": text, "logprob": _finite(value), "bytes": _bytes_of(text)} for text, value in delta.top]
    made_of = list(delta.bytes) or None
    return {"token": delta.token, "logprob": _finite(delta.logprob), "bytes": made_of, "top_logprobs": top}


def _bytes_of(text: str) -> list[int] | None:
    # U+FFFD may stand for half a character, and then nobody knows of which.
    return None if "\ufffd" in text else list(text.encode())


def _finite(value: float) -> float:
    return value if value > _UNLIKELIEST else _UNLIKELIEST


def _usage(usage: Usage) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    return body if usage.cost is None else body | {"cost": usage.cost}
