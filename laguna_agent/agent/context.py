"""What of the history goes into the next request: everything, until it no longer fits.

Two things shorten it, both without a model: an exchange that was repeated word for word is shown once (its last
occurrence), and when the window fills, the oldest tool results become one line each and then go, in large steps, so
that the prefix that servers cache stays the same for many turns. The system message and the person's words are never
touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from laguna_agent.agent.repetition import fingerprint
from laguna_agent.agent.store import Shortened
from laguna_agent.errors import ContextTooLong
from laguna_agent.messages import ImageBlock, Message, TextBlock, ToolCall, ToolSpec

# Shorten when the estimate passes FULL of the room, down to TARGET of it.
FULL, TARGET = 0.85, 0.5
NEWEST = 4
"""Messages at the end that are the last to be shortened."""
IMAGE_TOKENS = 1_200
ELIDED = "[result dropped to save room; call again if it is needed]"
TOO_BIG = "[the result does not fit the model's window; ask for less of it]"


class TokenEstimate:
    """Tokens from sizes, corrected by what the server counted last."""

    def __init__(self) -> None:
        self._per_byte = 1 / 3.3

    def calibrate(self, size: int, tokens: int) -> None:
        """Learn from one request of at least a few hundred tokens."""
        if tokens >= 200 and size > 0:
            self._per_byte = min(max(tokens / size, 1 / 6), 1.0)

    def tokens(self, size: int) -> int:
        """The estimate, rounded up."""
        return int(size * self._per_byte) + 1


def size_of(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
    """The size of a request in bytes of UTF-8, images counted as their token cost. Not characters: a Chinese one is
    three bytes and about one token, a Latin one is one byte and a third of a token."""
    total = sum(_bytes(tool.description) + len(msgspec.json.encode(tool.parameters)) for tool in tools)
    for message in messages:
        total += _bytes(message.reasoning) + 16
        for block in message.content:
            total += _bytes(block.text) if isinstance(block, TextBlock) else IMAGE_TOKENS * 3
        for call in message.tool_calls:
            total += len(call.name) + (_bytes(call.raw) or len(msgspec.json.encode(call.arguments))) + 24
    return total


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def without_repeats(history: Sequence[Message]) -> list[Message]:
    """The history with word-for-word repeated exchanges (one call, one result) left out but for the last of each."""
    keep: list[Message] = []
    seen: set[str] = set()
    index = len(history) - 1
    while index >= 0:
        key = _exchange(history, index)
        if key is not None and key in seen:
            index -= 2
            continue
        if key is not None:
            seen.add(key)
        keep.append(history[index])
        index -= 1
    return keep[::-1]


def _exchange(history: Sequence[Message], index: int) -> str | None:
    """The identity of the result at `index` with the call before it; None where those are anything but one call and
    its one result."""
    question, result = history[index - 1], history[index]
    if index == 0 or not result.tool_call_id or question.role != "assistant":
        return None
    if result.role == "tool" and [call.id for call in question.tool_calls] == [result.tool_call_id]:
        return fingerprint(question.tool_calls[0], result.text)
    is_only = index + 1 == len(history) or not history[index + 1].tool_call_id
    if result.role == "user" and not question.tool_calls and is_only:
        return fingerprint(ToolCall("", "", raw=question.text), result.text)
    return None


def shorten(history: list[Message], room: int, estimate: TokenEstimate, fixed: int) -> Shortened:
    """Make the history, in place, take TARGET of `room` tokens (beside `fixed` bytes of tool descriptions).

    The oldest tool results become one line each; where that is not enough the oldest calls go with their results; and
    where the rest does not fit at all, the newest results are replaced too. Returns what was done, for the log.
    """
    before = list(history)
    target, full = (_bytes_for(room * part, estimate) - fixed for part in (TARGET, FULL))
    given_up = _elide(history, range(len(history) - NEWEST), target)
    if size_of(history) > full:
        given_up += _drop_exchanges(history, target)
    given_up += _elide(history, range(max(0, len(history) - NEWEST), len(history)), full)
    return _difference(before, history, given_up)


def _difference(before: Sequence[Message], after: Sequence[Message], given_up: int) -> Shortened:
    dropped: list[int] = []
    replaced: list[tuple[int, str]] = []
    left = iter(after)
    message = next(left, None)
    for position, was in enumerate(before):
        same_result = message is not None and was.tool_call_id and was.tool_call_id == message.tool_call_id
        if message is None or not (message is was or same_result):
            dropped.append(position)
            continue
        if message is not was:
            replaced.append((position, message.text))
        message = next(left, None)
    return Shortened(tuple(dropped), tuple(replaced), given_up)


def shorten_again(history: list[Message], done: Shortened) -> None:
    """Do to the history, in place, what was done to it when it was as it is."""
    for position, words in done.replaced:
        history[position] = msgspec.structs.replace(history[position], content=(TextBlock(words),))
    for position in reversed(done.dropped):
        del history[position]


def _bytes_for(tokens: float, estimate: TokenEstimate) -> float:
    return tokens / (estimate.tokens(1_000_000) / 1_000_000)


def _elide(history: list[Message], indices: range, goal: float) -> int:
    size, count = size_of(history), 0
    for index in indices:
        if size <= goal:
            break
        message = history[index]
        # Told to call again for the newest, the model would.
        words = ELIDED if index < len(history) - 1 else TOO_BIG
        if message.tool_call_id and (len(message.text) > len(words) or _has_image(message)):
            history[index] = msgspec.structs.replace(message, content=(TextBlock(words),))
            size += size_of((history[index],)) - size_of((message,))
            count += 1
    return count


def _drop_exchanges(history: list[Message], goal: float) -> int:
    """Drop the oldest answers that called, each with all its results; answers that did not call stay."""
    size, count, start = size_of(history), 0, 0
    while size > goal:
        start = next((at for at in range(start, len(history)) if history[at].role == "assistant"), len(history))
        end = next((at for at in range(start + 1, len(history)) if not history[at].tool_call_id), len(history))
        if end > len(history) - NEWEST:
            break
        if end > start + 1:
            size -= size_of(history[start:end])
            count += end - start - 1
            del history[start:end]
        else:
            start = end
    return count


def _has_image(message: Message) -> bool:
    return any(isinstance(block, ImageBlock) for block in message.content)


def require_fit(messages: Sequence[Message], room: int | None, estimate: TokenEstimate, fixed: int) -> None:
    """Raise ContextTooLong rather than send more than the window holds."""
    if room is None:
        return
    needed = estimate.tokens(size_of(messages) + fixed)
    if needed > room:
        raise ContextTooLong(
            f"the request needs about {needed} tokens, but the model's window has room for {room}; "
            "start a new session, or serve the model with a larger context"
        )
