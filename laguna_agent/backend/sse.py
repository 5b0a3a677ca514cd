"""Server-sent events: bytes in, events out, whatever way the network cuts them.

Implements the parsing rules of the HTML standard, section 9.2 (server-sent events). Knows nothing of HTTP or JSON.
"""

from __future__ import annotations

import re

import msgspec

from laguna_agent.errors import ProviderError

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one line, or of the data of one event, beyond which the peer is not to be believed."""

_LINE_END = re.compile(rb"\r\n|\r|\n")


class ServerEvent(msgspec.Struct, frozen=True):
    """One dispatched event; `event` is "message" unless the server named it."""

    data: str
    event: str = "message"


class SSEParser:
    """Incremental parser. Any split of the same bytes gives the same events.

    A line ends as soon as its CR or LF is seen, so an event is never held back for the byte after it. What follows the
    last blank line at the end of the stream is an incomplete event and is dropped, as the standard asks. Raises
    ProviderError for a line or an event above `limit` bytes.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._after_cr = False
        self._at_start = True
        self._data: list[str] = []
        self._data_size = 0
        self._event = ""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        head, *rest = _LINE_END.split(chunk)
        self._hold(head)
        events = []
        for piece in rest:
            found = self._end_line()
            if found is not None:
                events.append(found)
            self._hold(piece)
        return events

    def _hold(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_size += len(piece)
        if self._pending_size + self._data_size > self._limit:
            raise ProviderError(f"the server sent an event of more than {self._limit // 2**20} MB; the answer is void")

    def _end_line(self) -> ServerEvent | None:
        line = b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._data_size += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent("\n".join(self._data), self._event or "message") if self._data else None
        self._data.clear()
        self._data_size = 0
        self._event = ""
        return event
