"""An answer of the model without the keys that it may hold, however it was cut into pieces.

A model can only tell a key that it was shown, by a server's own prompt or a person who pasted it; the faces and the log
get neither. Knows deltas; must not know a session.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from msgspec.structs import replace

from laguna_agent.backend.base import Delta, ReasoningDelta, RetryDelta, TextDelta, ToolCallDelta
from laguna_agent.errors import LagunaError
from laguna_agent.redaction import StreamRedactor, redact


async def stream_without_keys(deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    """The deltas with known keys taken out; an end that may begin one waits for what comes next."""
    redacting = _Redacting()
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                for clean in redacting.feed(delta):
                    yield clean
    except LagunaError:
        for clean in redacting.rest():
            yield clean
        raise
    for clean in redacting.rest():
        yield clean


class _Redacting:
    """What is held back of each of the answer's texts."""

    def __init__(self) -> None:
        self._text, self._thought = StreamRedactor(""), StreamRedactor("")
        self._calls: dict[int, StreamRedactor[str]] = {}

    def feed(self, delta: Delta) -> Iterator[Delta]:
        match delta:
            case TextDelta(text=text):
                if not text or (text := self._text.feed(text)):
                    yield TextDelta(text)
            case ReasoningDelta(text=text, details=details):
                kept = self._thought.feed(text)
                if kept or details or not text:
                    yield ReasoningDelta(kept, tuple(redact(details)))
            case ToolCallDelta(index=index, arguments=arguments):
                redactor = self._calls.setdefault(index, StreamRedactor(""))
                kept = redactor.feed(arguments)
                if kept or delta.id or delta.name or not arguments:
                    yield replace(delta, arguments=kept)
            case RetryDelta():
                # What the failed attempt sent is void.
                self.__init__()  # type: ignore[misc]
                yield replace(delta, reason=str(redact(delta.reason)))
            case _:
                yield from self.rest()
                yield delta

    def rest(self) -> Iterator[Delta]:
        """All that is held back, for nothing more comes of it."""
        if thought := self._thought.feed("", final=True):
            yield ReasoningDelta(thought)
        if text := self._text.feed("", final=True):
            yield TextDelta(text)
        for index, redactor in self._calls.items():
            if arguments := redactor.feed("", final=True):
                yield ToolCallDelta(index, arguments=arguments)
