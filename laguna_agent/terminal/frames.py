"""When the screen is drawn: at once after a pause, and not more often than `INTERVAL` while things keep coming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

INTERVAL = 1 / 10
"""Seconds between frames: smooth to read, and a tenth of the work of drawing each piece of a fast stream."""
TICK = 0.25
"""Seconds after which the clock alone is reason enough, while something runs."""


class Frames:
    """Calls `draw` on the event loop, in `context`, when asked and when the time has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, draw: Callable[[], None]) -> None:
        self.context: Context | None = None
        self._loop = loop
        self._draw = draw
        self._last = 0.0
        self._since = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running_for(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time() - self._since

    def ask(self, within: float = 0.0) -> None:
        """Draw in at most that many seconds, but not sooner than an interval after the last frame."""
        at = max(self._loop.time() + within, self._last + INTERVAL)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._due, context=self.context)

    def now(self) -> None:
        """Draw at once, for what must not wait."""
        self.stop()
        self._due()

    def stop(self) -> None:
        """No frame any more, until asked again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._last = self._loop.time()
        self._draw()
