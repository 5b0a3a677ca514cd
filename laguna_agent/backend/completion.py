"""The body of an answer with status 200 as deltas: a stream of events, one JSON object, or neither.

Knows when an answer is whole, and that what is not whole is no answer; must not know connections or retries.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from laguna_agent.backend.base import Delta
from laguna_agent.backend.faults import Origin, error_object
from laguna_agent.backend.sse import LINE_LIMIT, SSEParser
from laguna_agent.backend.timer import Timer
from laguna_agent.backend.wire import ChunkDecoder, parse_json
from laguna_agent.errors import ProviderError, ProviderUnavailable

HEAD_LIMIT = 64 * 1024
_MARKUP = re.compile(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


async def deltas_of(
    chunks: AsyncGenerator[bytes], media_type: str, timer: Timer, origin: Origin
) -> AsyncGenerator[Delta]:
    """The answer in `chunks`, whatever the server calls it. Raises ProviderError for what is none, or not whole."""
    head = await _first_text(chunks)
    decoder = ChunkDecoder()
    start = head.lstrip(b"\xef\xbb\xbf\r\n\t ")
    if start[:1] == b"{":
        for delta in _whole_answer(start + await read_up_to(chunks, LINE_LIMIT), decoder, origin):
            yield delta
    elif _MARKUP.match(head):
        raise _no_completion(head, media_type, origin)
    elif media_type == "text/event-stream" or start.startswith((b"data:", b"event:", b"id:", b":")):
        async with aclosing(_events_of(head, chunks, decoder, timer, origin)) as deltas:
            async for delta in deltas:
                yield delta
    else:
        raise _no_completion(head, media_type, origin)


async def _first_text(chunks: AsyncIterator[bytes]) -> bytes:
    """The bytes up to the chunk that holds the first one that is no white space."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if head.strip() or len(head) > HEAD_LIMIT:
            break
    return head


async def read_up_to(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """At most `limit` bytes, and whatever the last chunk holds beyond."""
    parts, size = [], 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= limit:
            break
    return b"".join(parts)


async def _events_of(
    head: bytes, chunks: AsyncIterator[bytes], decoder: ChunkDecoder, timer: Timer, origin: Origin
) -> AsyncGenerator[Delta]:
    parser, piece = SSEParser(), head
    while True:
        for event in parser.feed(piece):
            if event.data.strip() == "[DONE]":
                if decoder.reason is None:
                    raise ProviderUnavailable(f"{origin.host} ended its stream without a finish reason", retryable=True)
                for delta in decoder.end():
                    yield delta
                return
            deltas = decoder.decode(_chunk(event.data, event.event, origin))
            if deltas or decoder.reason is not None:
                timer.took_event()
            if decoder.reason is not None:
                timer.ended()
            for delta in deltas:
                yield delta
        try:
            following = await anext(chunks, None)
        except ProviderError:
            if decoder.reason is None:
                raise
            following = None  # the answer itself was complete
        if following is None:
            break
        piece = following
    if decoder.reason is None:
        raise ProviderUnavailable(f"{origin.host} broke off in the middle of its answer", retryable=True)
    for delta in decoder.end():
        yield delta


def _chunk(data: str, event: str, origin: Origin) -> dict[str, Any]:
    chunk = parse_json(data)
    if not isinstance(chunk, dict):
        said = origin.words(data[:80])
        raise ProviderUnavailable(f"{origin.host} sent an event that is no JSON object: {said}", retryable=True)
    if chunk.get("error") or event == "error" or chunk.get("object") == "error":
        raise error_object(chunk, origin)
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and first.get("error"):
        raise error_object(first, origin)  # OpenRouter's place for what broke off the provider's answer
    return chunk


def _whole_answer(body: bytes, decoder: ChunkDecoder, origin: Origin) -> list[Delta]:
    """A completion that came in one piece, though a stream was asked for. JSON that closes is complete."""
    chunk = _chunk(body.decode("utf-8", "replace"), "message", origin)
    if not isinstance(chunk.get("choices"), list) or not chunk["choices"]:
        raise error_object(chunk, origin)
    return [*decoder.decode(chunk), *decoder.end()]


def _no_completion(head: bytes, media_type: str, origin: Origin) -> ProviderError:
    if not head.strip():
        return ProviderUnavailable(f"{origin.host} gave an empty answer", retryable=True)
    kind = "an HTML page" if head.lstrip()[:1] == b"<" else f"{media_type or 'something without a content type'}"
    return ProviderError(
        f"{origin.host} answered with {kind} where a completion was due; check the base URL (it usually ends in /v1)",
        status=200,
    )
