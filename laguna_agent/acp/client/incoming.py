"""A foreign agent's events on their way to the face: in order, bounded, pieces of speech that wait joined.

While a turn is taken by the face nothing is lost: where the face is slow the agent is not read, and has to wait. What
comes between turns is kept for the next one, the newest of it. Knows events and the flow; must not know the protocol.
"""

from __future__ import annotations

from collections import deque

import anyio
from msgspec.structs import replace

from laguna_agent.acp.streams import Source
from laguna_agent.agent.events import Event, TextDelta, ThoughtDelta

HIGH_WATER = 1 << 20
"""Weight of waiting events from which on the agent is not read; a character weighs 1."""
HELD = 32 << 20
"""Weight of the events that are kept between turns."""
EVENT_WEIGHT = 256
JOINED = 4096
"""Characters up to which a waiting piece of speech takes the next one in."""


class Incoming:
    """See the module. One face takes events with `next`, between `begin` and `end`."""

    def __init__(self) -> None:
        # With its weight, which takes a moment to work out.
        self._events: deque[tuple[Event, int]] = deque()
        self._weight = 0
        self._taken = self._waiting = False
        self._changed = anyio.Event()

    def put(self, event: Event) -> None:
        """Add an event at once."""
        last, heavy = self._events[-1] if self._events else (None, 0)
        if isinstance(event, TextDelta | ThoughtDelta) and type(last) is type(event) and len(last.text) < JOINED:
            self._events[-1] = replace(last, text=last.text + event.text), heavy + len(event.text)
            self._weight += len(event.text)
        else:
            self._events.append((event, weight(event)))
            self._weight += self._events[-1][1]
        while not self._taken and self._weight > HELD:
            self._weight -= self._events.popleft()[1]
        self._wake(self._waiting)

    async def next(self) -> Event:
        """The next event, for the face that takes them."""
        while not self._events:
            self._waiting = True
            self._wake()
            await self._changed.wait()
        self._waiting = False
        return self._pop()

    async def shown(self) -> None:
        """Wait until the face has dealt with everything so far, or has left."""
        while self._taken and not (self._waiting and not self._events):
            await self._changed.wait()

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self._taken and self._weight >= HIGH_WATER:
            await self._changed.wait()

    def begin(self) -> None:
        """A face takes events from now on."""
        self._taken = True

    def end(self) -> None:
        """The face has left; what it did not take is dropped."""
        self._taken = self._waiting = False
        self.drain()

    def drain(self) -> list[Event]:
        """Take all that waits."""
        events = [event for event, _ in self._events]
        self._events.clear()
        self._weight = 0
        self._wake()
        return events

    def _pop(self) -> Event:
        event, heavy = self._events.popleft()
        before, self._weight = self._weight, self._weight - heavy
        self._wake(before >= HIGH_WATER > self._weight)
        return event

    def _wake(self, somebody: bool = True) -> None:
        if somebody:
            self._changed.set()
            self._changed = anyio.Event()


class Paced:
    """A source that is read only while there is room for what comes of it."""

    def __init__(self, source: Source, incoming: Incoming) -> None:
        self._source = source
        self._incoming = incoming

    async def read(self) -> bytes:
        """Some bytes; none at the end."""
        await self._incoming.room()
        return await self._source.read()


def weight(event: Event) -> int:
    """What an event takes of the room: about the characters in it."""
    total = EVENT_WEIGHT
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str):
            total += len(value)
        elif value and isinstance(value, tuple | dict):
            total += len(repr(value))
    return total
