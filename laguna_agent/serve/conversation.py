"""Messages of chat.completions as the conversation's own: the mirror of what `backend/wire.py` sends.

Types say what a message may be; msgspec checks them and names the place of what is not so. What a client may send
beside it (echoes such as `annotations` or `refusal: null`, a speaker's `name`) asks for nothing and is passed over.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from laguna_agent.backend.call_values import parse_arguments
from laguna_agent.messages import ContentBlock, ImageBlock, Message, TextBlock, ToolCall
from laguna_agent.serve.refusals import Refused

_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,", re.IGNORECASE)


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class ImageURL(msgspec.Struct):
    url: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    image_url: ImageURL


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    content: str | list[TextPart]


class DeveloperMessage(msgspec.Struct, tag_field="role", tag="developer"):
    content: str | list[TextPart]


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[TextPart | ImagePart]


class Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class Call(msgspec.Struct):
    function: Function
    id: str = ""
    type: Literal["function"] = "function"


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    """`reasoning`, `thinking` and `reasoning_details` are other servers' names for the thought; a client that changes
    servers in the middle of a conversation sends what the last one gave it."""

    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    function_call: None = None
    audio: None = None


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str | list[TextPart]
    name: str | None = None


AnyMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


def read_messages(messages: Iterable[AnyMessage]) -> Iterator[Message]:
    """The messages, in order. Raises Refused for what no message of ours can hold."""
    for number, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            yield _assistant(message)
        elif isinstance(message, ToolMessage):
            blocks = tuple(_blocks(message.content, ""))
            yield Message("tool", blocks, tool_call_id=message.tool_call_id, name=message.name or "")
        elif isinstance(message, UserMessage):
            yield Message("user", tuple(_blocks(message.content, f"messages[{number}].content")))
        else:
            yield Message("system", tuple(_blocks(message.content, "")))


def _blocks(content: str | list[TextPart] | list[TextPart | ImagePart], where: str) -> Iterator[ContentBlock]:
    if isinstance(content, str):
        if content:
            yield TextBlock(content)
        return
    for number, part in enumerate(content):
        if isinstance(part, TextPart):
            yield TextBlock(part.text)
        else:
            yield _image(part.image_url.url, f"{where}[{number}].image_url.url")


def _image(url: str, where: str) -> ImageBlock:
    head = _DATA_URL.match(url)
    if head is None:
        raise Refused(
            "an image must come as data:image/png;base64,... (or jpeg, gif, webp); this server fetches no addresses",
            param=where,
            code="invalid_image_url",
        )
    data = url[head.end() :]
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"the image is not valid base64: {error}", param=where, code="invalid_image_url") from None
    return ImageBlock(head[1].lower(), data)


def _assistant(message: AssistantMessage) -> Message:
    details = tuple(message.reasoning_details or ())
    thought = message.reasoning_content or message.reasoning or message.thinking
    if not thought:
        thought = "".join(str(item.get("text") or item.get("summary") or "") for item in details)
    text = _said(message.content) or message.refusal or ""
    return Message(
        "assistant",
        (TextBlock(text),) if text else (),
        tuple(_call(call) for call in message.tool_calls or ()),
        reasoning=thought,
        reasoning_details=details,
    )


def _said(content: str | list[TextPart | RefusalPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _call(call: Call) -> ToolCall:
    """A call of the history. One whose arguments are no JSON object stays what it is: a call that failed."""
    given = call.function.arguments
    if isinstance(given, dict):
        return ToolCall(call.id, call.function.name, given)
    if not given.strip():
        return ToolCall(call.id, call.function.name)
    arguments = parse_arguments(given)
    if isinstance(arguments, str):
        return ToolCall(call.id, call.function.name, raw=given, error=arguments)
    return ToolCall(call.id, call.function.name, arguments)
