"""The conversation as data: messages, content blocks, tool calls and tool descriptions.

Shared by every room, so it lies below them all and imports none. Wire-neutral: how a server or an editor spells
these is the business of `backend/openai_http.py` and `acp/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")
Role = Literal["system", "user", "assistant", "tool"]


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """Plain text."""

    text: str


class ImageBlock(msgspec.Struct, frozen=True, tag="image"):
    """An image: base64 of the file's bytes, and its MIME type (image/png, image/jpeg, image/gif, image/webp)."""

    mime_type: str
    data: str


ContentBlock = TextBlock | ImageBlock


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that the model made.

    `arguments` is the decoded object. `raw` keeps the text the model wrote when that text is not a JSON object;
    then `error` says why, and the call must never be executed.
    """

    id: str
    name: str
    arguments: dict[str, Any] = {}
    raw: str = ""
    error: str = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the conversation.

    `reasoning` (text) and `reasoning_details` (opaque items, as some servers demand them back unchanged) belong to
    assistant messages and stay in the history. `tool_call_id` and `name` belong to results: messages of role "tool",
    and of role "user" where the call had arrived as text.
    """

    role: Role
    content: tuple[ContentBlock, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""
    reasoning_details: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))


class PerMessage(Generic[T]):
    """What is worked out of a message, once for each as long as it stays in the conversation: a long one is sent again
    with every request."""

    def __init__(self, work_out: Callable[[Message], T]) -> None:
        self._work_out = work_out
        self._messages: list[Message] = []
        self._found: list[T] = []

    def of(self, messages: Sequence[Message]) -> list[T]:
        """What comes of each of the messages; worked out for those alone that the last ones did not begin with."""
        known, wanted = self._messages, list(messages)
        # Two lists that hold the same objects are compared without a look into them.
        if wanted[: len(known)] != known:
            pairs = enumerate(zip(known, wanted, strict=False))
            same = next((at for at, (old, new) in pairs if old is not new), min(len(known), len(wanted)))
            del known[same:], self._found[same:]
        self._found += map(self._work_out, wanted[len(known) :])
        self._messages = wanted
        return list(self._found)


def text_message(role: Role, text: str) -> Message:
    """A message of one text block."""
    return Message(role=role, content=(TextBlock(text),))


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as the model sees it; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Any]


ToolKind = Literal["read", "edit", "delete", "move", "search", "execute", "think", "fetch", "other"]


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in a file; `path` is relative to the workspace where it lies inside, `line` counts from 1."""

    path: str
    line: int | None = None


class FileDiff(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of one text file; `old_text` is None for a new file, `new_text` None for a deleted one. Of a long file
    both are the part that changed, with some lines around it; `line` is the number of their first."""

    path: str
    old_text: str | None
    new_text: str | None
    line: int = 1


class PlanEntry(msgspec.Struct, frozen=True):
    """One step of the model's plan."""

    content: str
    status: Literal["pending", "in_progress", "completed"] = "pending"
    priority: Literal["high", "medium", "low"] = "medium"
