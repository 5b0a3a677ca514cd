"""What of the history goes into the next request: everything, until it no longer fits.

Here is what shortens it without a model: an exchange that repeats itself at once is shown once, and when the window
fills, the oldest tool results become one line each and, where nothing else helps, go; in large steps, so that the
prefix that servers cache stays the same for many turns. The system message and the person's words are never touched.
What is done when that no longer suffices is in `compaction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from laguna_agent.agent.store import Shortened
from laguna_agent.errors import ContextTooLong
from laguna_agent.messages import ContentBlock, ImageBlock, Message, PerMessage, TextBlock, ToolSpec

# Shorten when the estimate passes FULL of the room, down to TARGET of it.
FULL, TARGET = 0.85, 0.5
NEWEST = 4
"""Messages at the end that are the last to be shortened."""
CYCLE = 3
"""Exchanges of the longest run that is seen to repeat itself."""
IMAGE_TOKENS = 1_200
ELIDED = "[result dropped to save room; call again if it is needed]"
TOO_BIG = "[the result does not fit the model's window; ask for less of it]"


class TokenEstimate:
    """Tokens from sizes, corrected by what the server counted last."""

    def __init__(self) -> None:
        self._per_byte = 1 / 3.3
        self._sizes = PerMessage(_size)

    def calibrate(self, size: int, tokens: int) -> None:
        """Learn from one request of at least a few hundred tokens."""
        if tokens >= 200 and size > 0:
            self._per_byte = min(max(tokens / size, 1 / 6), 1.0)

    def tokens(self, size: int) -> int:
        """The estimate, rounded up."""
        return int(size * self._per_byte) + 1

    def size_of(self, messages: Sequence[Message]) -> int:
        """What `size_of` gives, without measuring a message twice."""
        return sum(self._sizes.of(messages))


def size_of(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
    """The size of a request in bytes of UTF-8, images counted as their token cost. Not characters: a Chinese one is
    three bytes and about one token, a Latin one is one byte and a third of a token."""
    total = sum(bytes_of(tool.description) + len(msgspec.json.encode(tool.parameters)) for tool in tools)
    return total + sum(map(_size, messages))


def _size(message: Message) -> int:
    total = bytes_of(message.reasoning) + 16
    for block in message.content:
        total += bytes_of(block.text) if isinstance(block, TextBlock) else IMAGE_TOKENS * 3
    for call in message.tool_calls:
        total += len(call.name) + (bytes_of(call.raw) or len(msgspec.json.encode(call.arguments))) + 24
    return total


def bytes_of(text: str) -> int:
    """The text's length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


class Unrepeated:
    """A history with exchanges (one call, one result) that follow themselves word for word shown once, and so are runs
    of up to three exchanges that come again at once.

    A repeat goes when it is the newest of the conversation and is never missed later, so what is shown of a longer
    history begins with what was shown of it before, or is the beginning of that: the prefix that servers cache stays.
    What is settled of a history is not looked at again when it has grown.
    """

    def __init__(self) -> None:
        self._settled: list[Message] = []
        self._kept: list[Message] = []
        self._run: list[_Exchange] = []

    def of(self, history: Sequence[Message]) -> list[Message]:
        """What is shown of the history."""
        history = list(history)
        begin = len(self._settled)
        if history[:begin] != self._settled:
            begin, self._kept, self._run = 0, [], []
        # Up to the last answer: what comes behind it may be results that are not all there yet.
        answers = (at for at in range(len(history) - 1, begin - 1, -1) if history[at].role == "assistant")
        end = next(answers, begin)
        _keep(history, begin, end, self._kept, self._run)
        self._settled = history[:end]
        kept, run = list(self._kept), list(self._run)
        _keep(history, end, len(history), kept, run)
        return kept


def _keep(history: list[Message], at: int, end: int, kept: list[Message], run: list[_Exchange]) -> None:
    """Go on from `at` to `end`; `run` are the exchanges that `kept` ends with."""
    while at < end:
        exchange = _exchange(history, at)
        if exchange is None:
            kept.append(history[at])
            run.clear()
            at += 1
            continue
        kept += history[at : at + 2]
        run.append(exchange)
        at += 2
        for length in range(1, min(CYCLE, len(run) // 2) + 1):
            if run[-length:] == run[-2 * length : -length]:
                del run[-length:], kept[-2 * length :]
                break


_Exchange = tuple[str, dict[str, Any], str, tuple[ContentBlock, ...]]


def _exchange(history: Sequence[Message], at: int) -> _Exchange | None:
    """The call that is made at `at` with its result behind it; None where those are anything but one and one."""
    if at + 1 >= len(history):
        return None
    question, result = history[at], history[at + 1]
    if question.role != "assistant" or not result.tool_call_id:
        return None
    if result.role == "tool":
        if len(question.tool_calls) != 1 or question.tool_calls[0].id != result.tool_call_id:
            return None
        call = question.tool_calls[0]
        return call.name, call.arguments, call.raw, result.content
    is_only = at + 2 >= len(history) or not history[at + 2].tool_call_id
    if question.tool_calls or not is_only:
        return None
    return "", {}, question.text, result.content


def prune(history: list[Message], room: int, estimate: TokenEstimate, fixed: int) -> Shortened:
    """Make the history, in place, take TARGET of `room` tokens (beside `fixed` bytes of tool descriptions), as far as
    that is done by turning the oldest tool results into one line each. Returns what was done, for the log."""
    before = list(history)
    given_up = _elide(history, range(len(history) - NEWEST), bytes_for(room * TARGET, estimate) - fixed)
    return _difference(before, history, given_up)


def shorten(history: list[Message], room: int, estimate: TokenEstimate, fixed: int) -> Shortened:
    """The same, and where that is not enough the oldest calls go with their results; and where the rest does not fit at
    all, the newest results are replaced too."""
    before = list(history)
    target, full = (bytes_for(room * part, estimate) - fixed for part in (TARGET, FULL))
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


def bytes_for(tokens: float, estimate: TokenEstimate) -> float:
    """The size, as `size_of` counts it, of that many tokens."""
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
    needed = estimate.tokens(estimate.size_of(messages) + fixed)
    if needed > room:
        raise ContextTooLong(
            f"the request needs about {needed} tokens, but the model's window has room for {room}; "
            "start a new session, or serve the model with a larger context"
        )
