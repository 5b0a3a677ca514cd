"""Templates and conversations that the chat tests share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from laguna_agent.backend.laguna.template import ChatTemplate
from laguna_agent.messages import Message, TextBlock, ToolCall, ToolSpec, text_message

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def template(name: str) -> ChatTemplate:
    """One of the templates beside the tests: compact, newline or hermes."""
    path = TEMPLATES / f"{name}.jinja"
    return ChatTemplate(path.read_text(encoding="utf-8"), source=path.name)


def from_wire(message: dict[str, Any]) -> Message:
    """A message of the golden file."""
    calls = message.get("tool_calls", ())
    return Message(
        role=message["role"],
        content=(TextBlock(message["content"]),) if message["content"] else (),
        tool_calls=tuple(
            ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
        ),
        reasoning=message.get("reasoning") or message.get("reasoning_content") or "",
    )


SHELL = ToolSpec(
    "shell",
    "Run <b>a</b> command",
    {
        "type": "object",
        "properties": {"cmd": {"type": "string"}, "timeout": {"type": "integer"}, "env": {"type": "object"}},
        "required": ["cmd"],
    },
)

CONVERSATION = (
    text_message("system", "Be terse."),
    text_message("user", "list it"),
    Message(
        "assistant",
        (TextBlock("Let me look."),),
        (ToolCall("c1", "shell", {"cmd": "ls -la\n", "timeout": 5, "env": {"ü": [1, None, "</b>"]}}),),
        reasoning="Need ls.",
    ),
    Message("tool", (TextBlock("a.py"),), tool_call_id="c1"),
    Message("assistant", (TextBlock("One file."),), reasoning="Done."),
    text_message("user", "thanks é \U0001f600"),
)
