"""What of the history goes into the next request: everything, until it no longer fits.

Two things shorten it, both without a model: an exchange that was repeated word for word is shown once (its last
occurrence), and when the window fills, the oldest tool results become one line each, in large steps, so that the
prefix that servers cache stays the same for many turns. The system message and the person's words are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from laguna_agent.agent.repetition import fingerprint
from laguna_agent.errors import ContextTooLong
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolCall, ToolSpec

# Shorten when the estimate passes FULL of the room, down to TARGET of it.
FULL, TARGET = 0.85, 0.5
IMAGE_TOKENS = 1_200
TEXT_RESULT = "Result of "
"""How the result of a call that arrived as text begins; it goes back as a user message."""
ELIDED = "[result dropped to save room; call again if it is needed]"


class TokenEstimate:
    """Tokens from characters, corrected by what the server counted last."""

    def __init__(self) -> None:
        self._per_character = 1 / 3.3

    def calibrate(self, characters: int, tokens: int) -> None:
        """Learn from one request of at least a few hundred tokens."""
        if tokens >= 200 and characters > 0:
            self._per_character = min(max(tokens / characters, 1 / 6), 1.0)

    def tokens(self, characters: int) -> int:
        """The estimate, rounded up."""
        return int(characters * self._per_character) + 1


def characters(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
    """The size of a request in characters, images counted as their token cost."""
    total = sum(len(tool.description) + len(msgspec.json.encode(tool.parameters)) for tool in tools)
    for message in messages:
        total += len(message.reasoning) + 16
        for block in message.content:
            total += len(block.text) if isinstance(block, TextBlock) else IMAGE_TOKENS * 3
        for call in message.tool_calls:
            total += len(call.name) + len(call.raw or msgspec.json.encode(call.arguments)) + 24
    return total


def without_repeats(history: Sequence[Message]) -> list[Message]:
    """The history with word-for-word repeated exchanges (one call, one result) left out but for the last of each."""
    keep: list[Message] = []
    seen: set[str] = set()
    index = len(history) - 1
    while index >= 0:
        key = _exchange(history[index - 1], history[index]) if index else None
        if key is not None and key in seen:
            index -= 2
            continue
        if key is not None:
            seen.add(key)
        keep.append(history[index])
        index -= 1
    return keep[::-1]


def _exchange(question: Message, result: Message) -> str | None:
    """The identity of a call with its result; None where the two messages are anything else."""
    if result.role == "tool" and [call.id for call in question.tool_calls] == [result.tool_call_id]:
        return fingerprint(question.tool_calls[0], result.text)
    if result.role == "user" and question.role == "assistant" and result.text.startswith(TEXT_RESULT):
        return fingerprint(ToolCall("", "", raw=question.text), result.text)
    return None


def shorten(history: list[Message], room: int, estimate: TokenEstimate, fixed: int) -> int:
    """Replace the oldest tool results in place until the history takes TARGET of `room` tokens (beside `fixed`
    characters of tool descriptions). The newest four messages stay. Returns how many results were replaced."""
    dropped = 0
    for index, message in enumerate(history[:-4]):
        if estimate.tokens(characters(history) + fixed) <= room * TARGET:
            break
        if message.role == "tool" and (len(message.text) > len(ELIDED) or _has_image(message)):
            history[index] = msgspec.structs.replace(message, content=(TextBlock(ELIDED),))
            dropped += 1
    return dropped


def _has_image(message: Message) -> bool:
    return any(isinstance(block, ImageBlock) for block in message.content)


def require_fit(messages: Sequence[Message], room: int | None, estimate: TokenEstimate, fixed: int) -> None:
    """Raise ContextTooLong rather than send more than the window holds."""
    if room is None:
        return
    needed = estimate.tokens(characters(messages) + fixed)
    if needed > room:
        raise ContextTooLong(
            f"the request needs about {needed} tokens, but the model's window has room for {room}; "
            "start a new session, or serve the model with a larger context"
        )
