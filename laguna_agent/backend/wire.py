"""OpenAI chat.completions as JSON: a `Request` to the body of a POST, and JSON chunks to deltas.

Knows the spellings of many servers and nothing of HTTP, retries or how an answer is put together. The protocol is
https://platform.openai.com/docs/api-reference/chat; what servers do beside it is noted where it is handled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from laguna_agent.backend.base import (
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    Request,
    Sampling,
    TextDelta,
    TokenDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.finish import read_finish
from laguna_agent.errors import ProviderUnavailable
from laguna_agent.messages import ImageBlock, Message, PerMessage, ToolCall, ToolSpec

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_THOUGHT_KEYS = frozenset({*REASONING_FIELDS, "reasoning_details"})

_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty"),
    *("max_tokens", "seed"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Dialect(msgspec.Struct, frozen=True):
    """How one server's chat.completions differs.

    `reasoning_field` is where a message of the history carries its thought, `details` whether `reasoning_details` go
    back too. `thinking` is how thought is switched: "effort" sets `reasoning_effort`, "openrouter" the `reasoning`
    object, "template" the chat template's `enable_thinking`.
    """

    reasoning_field: Literal["reasoning_content", "reasoning"] = "reasoning_content"
    details: bool = False
    thinking: Literal["effort", "openrouter", "template"] = "effort"


Spelled = tuple[dict[str, Any], list[dict[str, Any]]]
"""A message as plain data, and the images that go behind it in a message of their own. Not as JSON: that would be a
second copy of the conversation."""


def spelling(dialect: Dialect) -> PerMessage[Spelled]:
    """How messages are spelled; each is once."""
    return PerMessage(lambda message: _spelled(message, dialect))


def encode_request(request: Request, dialect: Dialect, spelled: PerMessage[Spelled] | None = None) -> bytes:
    """The body to post; `spelled` remembers the messages of earlier requests.

    What stays the same from turn to turn comes first (model, settings, tools, then the messages, oldest first), so the
    bytes of one turn's body are a prefix of the next one's, up to the end of its last message.
    """
    body: dict[str, Any] = {"model": request.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _sampling(request.sampling, dialect)
    if request.response_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": request.response_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    body["messages"] = list(_messages(request.messages, spelled or spelling(dialect)))
    return encode_json(body)


def encode_json(value: Any) -> bytes:
    """Plain data as JSON. Argv and files can hand in half characters; each becomes a question mark."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _sampling(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    body = {name: value for name in _SAMPLING if (value := getattr(sampling, name)) is not None}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    effort = sampling.reasoning_effort
    if dialect.thinking == "openrouter":
        return body | _reasoning(sampling)
    if effort is None:
        return body
    if dialect.thinking == "template":
        body["chat_template_kwargs"] = {"enable_thinking": effort != "off"}
    else:
        body["reasoning_effort"] = "none" if effort == "off" else effort
    return body


def _reasoning(sampling: Sampling) -> dict[str, Any]:
    """OpenRouter's object: thought is off, or of some effort, or of so many tokens; it takes one of the three."""
    if sampling.reasoning_effort == "off":
        return {"reasoning": {"enabled": False}}
    if sampling.reasoning_tokens is not None:
        return {"reasoning": {"max_tokens": sampling.reasoning_tokens}}
    return {"reasoning": {"effort": sampling.reasoning_effort}} if sampling.reasoning_effort else {}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _messages(messages: Sequence[Message], spelled: PerMessage[Spelled]) -> Iterator[dict[str, Any]]:
    # A tool message takes text only, and nothing may stand between the results of one turn: their images follow them.
    images: list[dict[str, Any]] = []
    for message, (data, behind) in zip(messages, spelled.of(messages), strict=True):
        if message.role != "tool" and images:
            yield {"role": "user", "content": images}
            images = []
        yield data
        images = images + behind
    if images:
        yield {"role": "user", "content": images}


def _spelled(message: Message, dialect: Dialect) -> Spelled:
    if message.role == "tool":
        images = [_image(block) for block in message.content if isinstance(block, ImageBlock)]
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}, images
    if message.role == "assistant":
        return _assistant(message, dialect), []
    return {"role": message.role, "content": _content(message)}, []


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not any(isinstance(block, ImageBlock) for block in message.content):
        return message.text
    return [
        _image(block) if isinstance(block, ImageBlock) else {"type": "text", "text": block.text}
        for block in message.content
    ]


def _image(block: ImageBlock) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{block.mime_type};base64,{block.data}"}}


def _assistant(message: Message, dialect: Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {"role": "assistant", "content": message.text or (None if message.tool_calls else "")}
    if dialect.details and message.reasoning_details:
        body["reasoning_details"] = list(message.reasoning_details)
    elif message.reasoning:
        body[dialect.reasoning_field] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [_call(call) for call in message.tool_calls]
    return body


def _call(call: ToolCall) -> dict[str, Any]:
    # Servers parse the arguments of the history and refuse what is not an object, so a broken call goes back empty;
    # its result says what was wrong.
    arguments = msgspec.json.encode({} if call.error else call.arguments).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def parse_json(data: str) -> Any:
    """The JSON in `data`, None where there is none. Python's parser takes what the five times faster one refuses: NaN,
    and halves of characters, which some servers send."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def parse_usage(usage: dict[str, Any]) -> Usage:
    """The `usage` object; cached and reasoning tokens as OpenAI, DeepSeek and OpenRouter spell them."""
    prompt, output = _object(usage.get("prompt_tokens_details")), _object(usage.get("completion_tokens_details"))
    cost = usage.get("cost")
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(prompt.get("cached_tokens")) or _count(usage.get("prompt_cache_hit_tokens")),
        reasoning_tokens=_count(output.get("reasoning_tokens")) or _count(usage.get("reasoning_tokens")),
        cost=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(text: str) -> str:
    """`text` with surrogate pairs joined and lone halves replaced, so that it can be stored and sent."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _tokens(logprobs: Any) -> Iterator[TokenDelta]:
    """The tokens of a choice's `logprobs`, which servers may leave out or give as null."""
    content = _object(logprobs).get("content")
    for entry in map(_object, content if isinstance(content, list) else []):
        top = tuple((_whole(str(each.get("token"))), _number(each.get("logprob"))) for each in _listed(entry))
        made_of = entry.get("bytes")
        octets = tuple(map(_count, made_of)) if isinstance(made_of, list) else ()
        yield TokenDelta(_whole(str(entry.get("token", ""))), _number(entry.get("logprob")), octets, top)


def _listed(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    top = entry.get("top_logprobs")
    return filter(None, map(_object, top if isinstance(top, list) else []))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _whole_object(item: dict[str, Any]) -> dict[str, Any]:
    return _object(json.loads(_whole(json.dumps(item, ensure_ascii=False))))


class _Call:
    """A call under construction: what the server called it, and the arguments so far."""

    def __init__(self, index: int, wire_id: str) -> None:
        self.index = index
        self.wire_id = wire_id
        self.name = ""
        self.arguments: list[str] = []

    def is_whole(self) -> bool:
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(msgspec.json.decode("".join(self.arguments)), dict)
        except (msgspec.DecodeError, RecursionError):
            return False


class ChunkDecoder:
    """Chunks of one stream to deltas; a whole completion counts as a stream of one chunk.

    `decode` takes each JSON object, `end` closes: usage (when the server gave any) and `Finished`. Raises
    ProviderUnavailable (retryable) where the server says that generation broke.
    """

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._refused = False
        self._calls: list[_Call] = []
        self._slots: dict[int, _Call] = {}
        self._halves: dict[str, str] = {}

    def decode(self, chunk: dict[str, Any]) -> list[Delta]:
        """The deltas of one chunk."""
        if isinstance(chunk.get("usage"), dict):
            self._usage = parse_usage(chunk["usage"])
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return []
        deltas: list[Delta] = []
        for choice in choices[:1]:
            if isinstance(choice, dict):
                deltas += self._choice(choice)
        return deltas

    def end(self) -> list[Delta]:
        """The closing deltas; `reason` must be set."""
        reason = self.reason or "stop"
        if self._refused and reason == "stop":
            reason = "refusal"
        if reason in {"stop", "tool_calls"}:
            reason = "tool_calls" if self._calls else "stop"
        usage: list[Delta] = [UsageDelta(self._usage)] if self._usage is not None else []
        return [*usage, Finished(reason)]

    def _choice(self, choice: dict[str, Any]) -> Iterator[Delta]:
        delta = _object(choice.get("delta")) or _object(choice.get("message"))
        yield from _tokens(choice.get("logprobs"))
        yield from self._reasoning(delta)
        yield from self._text(delta)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            if isinstance(call, dict):
                yield from self._call(call)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self.reason = read_finish(finish)
            if self.reason is None:
                raise ProviderUnavailable(f"the provider broke off the answer ({finish[:40]})", retryable=True)

    def _reasoning(self, delta: dict[str, Any]) -> Iterator[Delta]:
        if _THOUGHT_KEYS.isdisjoint(delta):
            return
        text = next((delta[name] for name in REASONING_FIELDS if isinstance(delta.get(name), str) and delta[name]), "")
        given = delta.get("reasoning_details")
        details = tuple(map(_whole_object, filter(_object, given))) if isinstance(given, list) else ()
        if not text:
            text = "".join(str(item.get("text") or item.get("summary") or "") for item in details)
        text = self._joined("reasoning", text)
        if text or details:
            yield ReasoningDelta(text, details)

    def _text(self, delta: dict[str, Any]) -> Iterator[Delta]:
        content = delta.get("content")
        if isinstance(content, str) and (text := self._joined("text", content)):
            yield TextDelta(text)
        for part in filter(None, map(_object, content)) if isinstance(content, list) else ():
            if part.get("type") == "thinking" and isinstance(part.get("thinking"), list):
                # Mistral's content parts: a list of text parts inside a thinking part.
                thought = "".join(str(item.get("text") or "") for item in map(_object, part["thinking"]))
                yield ReasoningDelta(thought)
            elif isinstance(part.get("text"), str) and (text := self._joined("text", part["text"])):
                yield TextDelta(text)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._refused = True
            yield TextDelta(refusal)

    def _call(self, call: dict[str, Any]) -> Iterator[Delta]:
        function = _object(call.get("function"))
        name, wire_id = _whole(str(function.get("name") or "")), _whole(str(call.get("id") or ""))
        arguments = function.get("arguments", "")
        if arguments is None:
            arguments = ""
        fragment = arguments if isinstance(arguments, str) else json.dumps(arguments)
        current = self._slot(call.get("index"), wire_id, name, fragment)
        first_name = name if not current.name else ""
        current.name = current.name or name
        fragment = self._joined(f"call {current.index}", fragment)
        if fragment:
            current.arguments.append(fragment)
        new_id, current.wire_id = ("" if current.wire_id else wire_id), current.wire_id or wire_id
        if first_name or fragment or new_id:
            yield ToolCallDelta(current.index, new_id, first_name, fragment)

    def _slot(self, index: Any, wire_id: str, name: str, fragment: str) -> _Call:
        """The call that a fragment belongs to.

        Some servers leave the index out, some send 0 for every call: then another id, or a name after arguments that
        are already whole, begins a new one.
        """
        if isinstance(index, int):
            current = self._slots.get(index)
        else:
            current = self._calls[-1] if self._calls else None
            index = None
        if current is not None and name and current.name:
            other_id = bool(wire_id and current.wire_id and wire_id != current.wire_id)
            if other_id or (not (wire_id and current.wire_id) and fragment and current.is_whole()):
                current = None
        if current is None:
            current = _Call(len(self._calls), "")
            self._calls.append(current)
            if index is not None:
                self._slots[index] = current
        return current

    def _joined(self, channel: str, text: str) -> str:
        """`text` without lone surrogates; a pair that was cut between two chunks is put together."""
        held = self._halves.pop(channel, "")
        if not held and not _SURROGATE.search(text):
            return text
        text = held + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[channel] = text[-1]
            text = text[:-1]
        return _whole(text)
