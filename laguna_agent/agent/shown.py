r"""What comes from outside and goes to the model, with everything hidden in it made visible and named once.

The one place where tool results and opening messages pass `laguna_agent.visible`; what the log, a diff or an artifact
holds of a file is exact. Knows messages and results; must not know tools, faces or the wire.
"""

from __future__ import annotations

from msgspec.structs import replace

from laguna_agent.agent.store import Said
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.tools.base import ToolResult
from laguna_agent.visible import Found, revealed

GROWTH = 3
"""How many times its length a text may grow: a file made of hidden characters must not fill the window."""
ROOM = 4_000
"""Characters that a short text may grow by in any case."""


def shown_result(result: ToolResult) -> ToolResult:
    """The result with visible text; where something was hidden the text says so, and `hidden` says it to the person."""
    content, found = _visible(result.content)
    if not found:
        return result
    return replace(result, content=(*content, TextBlock(f"\n[{found.note}]")), hidden=found.note)


def shown_message(said: Said) -> Said:
    """The message with visible text, and a last line that says what was hidden in it."""
    content, found = _visible(said.message.content)
    if not found:
        return said
    return replace(said, message=replace(said.message, content=(*content, TextBlock(f"\n[{found.note}]"))))


def _visible(blocks: tuple[ContentBlock, ...]) -> tuple[tuple[ContentBlock, ...], Found]:
    everything, content = Found(), list[ContentBlock]()
    for block in blocks:
        if isinstance(block, TextBlock):
            text, found = revealed(block.text)
            everything.add(found)
            block = TextBlock(_bounded(text, GROWTH * len(block.text) + ROOM)) if found else block
        content.append(block)
    return tuple(content), everything


def _bounded(text: str, cap: int) -> str:
    if len(text) <= cap:
        return text
    return f"{text[:cap]}\n[... {len(text) - cap:,} characters left out, most of them hidden ones in visible form ...]"
