"""Signals during a run: what they end, in which order, and how long that may take."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

import anyio

from laguna_agent.agent.events import Event
from laguna_agent.early_signals import STOPPING, take_noted
from laguna_agent.headless.descendants import kill_descendants
from laguna_agent.headless.output import LAST_WORDS_PATIENCE, Output

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session


class Stopped(BaseException):
    """A signal came while the program waited, before there was an event loop to tell."""


class Stop:
    """What the signals asked for. The first one ends the turn in good order; a second SIGINT spares the commands that
    still run their time to say goodbye.

    The handlers are not an event loop's: those stay from before the loop until the process ends, so there is no moment
    in which a signal could end the process with another status than the final record's.
    """

    def __init__(self) -> None:
        self.outcome: Literal["interrupted", "terminated"] | None = None
        self.session: Session | None = None
        self.before_session: anyio.CancelScope | None = None
        self._writing: anyio.CancelScope | None = None
        self._waiting = False
        self._arrived, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        for noted in take_noted():
            self._note(noted, None)

    def _note(self, number: int, _: object) -> None:
        self.outcome = self.outcome or ("interrupted" if number == signal.SIGINT else "terminated")
        if self._waiting:
            raise Stopped
        with suppress(BlockingIOError):
            os.write(self._tell, bytes([number]))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a blocking wait without an event loop: a signal that came, or comes meanwhile, raises Stopped."""
        self._waiting = True
        try:
            if self.outcome is not None:
                raise Stopped
            yield
        finally:
            self._waiting = False

    def over(self) -> None:
        """The final record is out and its exit code holds; unlike any other handler, SIG_IGN outlives the interpreter's
        own end."""
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)

    async def watch(self) -> None:
        """Act on signals for as long as the run lasts."""
        first = True
        while True:
            await anyio.wait_readable(self._arrived)
            for number in os.read(self._arrived, 64):
                if first:
                    self.apply()
                elif number == signal.SIGINT:
                    kill_descendants()
                first = False

    def apply(self) -> None:
        """End whatever there is by now, if a signal asked for it."""
        if self.outcome is None:
            return
        if self.session is not None:
            self.session.cancel(self.outcome)
        elif self.before_session is not None:
            self.before_session.cancel()
        if self._writing is not None:
            self._writing.deadline = anyio.current_time() + LAST_WORDS_PATIENCE

    async def write(self, output: Output, event: Event) -> None:
        """Give an event to the output; once a signal came, no longer than a reader deserves that may have stalled."""
        with anyio.CancelScope() as self._writing:
            self.apply()
            await output.event(event)
        if self._writing.cancelled_caught:
            output.give_up()
        self._writing = None
