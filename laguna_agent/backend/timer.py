"""When to stop waiting for a server. Knows the clock; must not know connections."""

from __future__ import annotations

from time import monotonic

AFTER_FINISH = 5.0
"""Seconds that usage and [DONE] may take once the server has said why it ended."""


class Timer:
    """How long the next bytes may take.

    Silence may last `stall` seconds. Bytes that bring nothing (keep-alive comments, empty chunks) prolong that, but
    not beyond `keep_alive` seconds since the last thing that did. Before the first byte `first` applies, for a server
    on this machine may need minutes to read a long prompt; one that says so in comments gets no less.
    """

    def __init__(self, stall: float, first: float, keep_alive: float) -> None:
        self._stall = stall
        self._keep_alive = keep_alive
        self._patience = max(first, keep_alive)
        self._first: float | None = first
        self._grace = 0.0
        self._bytes_at = self._event_at = monotonic()

    def took_bytes(self) -> None:
        self._bytes_at = monotonic()
        self._first = None

    def took_event(self) -> None:
        self._patience = self._keep_alive
        self._event_at = monotonic()

    def ended(self) -> None:
        """Only the rest of the stream is still wanted."""
        self._grace = self._grace or monotonic() + AFTER_FINISH

    def pause(self, seconds: float) -> None:
        """The reader of the stream took its time; that is no fault of the server's."""
        self._bytes_at += seconds
        self._event_at = min(self._event_at + seconds, monotonic())

    def left(self) -> float:
        if self._first is not None:
            until = self._bytes_at + self._first
        else:
            until = min(self._bytes_at + self._stall, self._event_at + self._patience)
        return max(0.0, min(until, self._grace or until) - monotonic())

    def silence(self) -> float:
        return monotonic() - self._event_at
