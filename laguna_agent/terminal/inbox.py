"""What comes from the session's thread, collected until the face draws its next frame.

A model may send two hundred pieces a second; the face is woken once for all that came since it looked last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laguna_agent.agent.events import Event
    from laguna_agent.terminal.face import Question


class Inbox:
    """`deliver` on any thread, `take` on the face's. `wake` is called there when there is something."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._items: deque[Event | Question] = deque()
        self._woken = False

    def deliver(self, item: Event | Question) -> None:
        """Put something in."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            # Closed: the face has left and nobody looks any more.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def take(self) -> list[Event | Question]:
        """All that came, in order."""
        self._woken = False
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        return taken
