"""SIGINT and SIGTERM while a run goes on: noted, so that the step under way ends and a checkpoint is written.

Knows signals; must not know what stops.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NOTED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The signals that came: `asked` is the last of them, 0 where there was none."""

    def __init__(self) -> None:
        self.asked = 0

    def note(self, number: int, _: FrameType | None = None) -> None:
        """A signal came. The second SIGINT of an impatient person ends the program where it stands; the last
        checkpoint is whole whatever happens."""
        if number == signal.SIGINT and self.asked == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.asked = number

    patient = False
    """Whether somebody passes signals on to us who also sees to impatience: the launcher, whose SIGINT comes a second
    time where a terminal sends it to all."""


@contextmanager
def noted_signals(*, patient: bool = False) -> Iterator[Stop]:
    """Note them within the block; what we were started to ignore (nohup) stays ignored. Outside the main thread, where
    Python allows no handlers, nothing is ever noted."""
    stop = Stop()
    stop.patient = patient
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in NOTED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _handler(stop))
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handler(stop: Stop) -> Callable[[int, FrameType | None], None]:
    return stop.note
