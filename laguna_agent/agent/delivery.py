"""How a turn's events reach the face: in order, bounded, in bursts, and before a person is asked about them."""

from __future__ import annotations

import anyio

from laguna_agent.agent.events import Event, PermissionRequested, ToolCallUpdate

WAITING = 64
"""Events that may wait for a slow face; then the turn waits."""


class Delivery:
    """The way of one turn's events. `emitted` counts those that a replay of the turn gives too."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Event](WAITING)
        self._caught_up = anyio.Event()
        self.emitted = 0

    async def put(self, event: Event) -> None:
        """Send an event; with one that asks the person, or shows a terminal that is soon gone, this returns when the
        face has dealt with everything up to it."""
        try:
            self._send.send_nowait(event)
        except anyio.WouldBlock:
            await self._send.send(event)
        if not event.live_only:
            self.emitted += 1
        if isinstance(event, PermissionRequested) or (isinstance(event, ToolCallUpdate) and event.terminal):
            self._caught_up = anyio.Event()
            await self._caught_up.wait()

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, *_: object) -> None:
        """No more events come."""
        self._send.close()

    async def next(self) -> Event | None:
        """The next event, None after the last.

        Where one waits it is given without a step of the event loop: a burst from a fast model reaches the face as one,
        which can then write it as one.
        """
        try:
            try:
                return self._receive.receive_nowait()
            except anyio.WouldBlock:
                self._caught_up.set()
                return await self._receive.receive()
        except anyio.EndOfStream:
            return None

    def abandon(self) -> None:
        """Nobody will take another event."""
        self._receive.close()

    async def drain(self) -> None:
        """Take what still comes, for a face that has left."""
        while await self.next() is not None:
            pass
