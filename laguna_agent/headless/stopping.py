"""Signals during a run: what they end, in which order, and how long that may take."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Literal

import anyio
import anyio.abc

from laguna_agent.agent.events import Event
from laguna_agent.headless.descendants import kill_descendants
from laguna_agent.headless.output import LAST_WORDS_PATIENCE, Output

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """What the signals asked for. The first one ends the turn in good order; a second SIGINT spares the commands that
    still run their time to say goodbye."""

    def __init__(self) -> None:
        self.outcome: Literal["interrupted", "terminated"] | None = None
        self.session: Session | None = None
        self.before_session = anyio.CancelScope()
        self._writing: anyio.CancelScope | None = None

    async def watch(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Act on signals for as long as the run lasts. A signal that we were started to ignore (nohup) stays so."""
        wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*wanted) as arriving:
            task_status.started()
            async for number in arriving:
                if self.outcome is None:
                    self.outcome = "interrupted" if number == signal.SIGINT else "terminated"
                    self.apply()
                elif number == signal.SIGINT:
                    kill_descendants()

    def apply(self) -> None:
        """End whatever there is by now, if a signal asked for it."""
        if self.outcome is None:
            return
        if self.session is None:
            self.before_session.cancel()
        else:
            self.session.cancel(self.outcome)
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
