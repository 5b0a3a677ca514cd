"""SIGINT and SIGTERM while a run goes on: noted, so that the step under way ends and a checkpoint is written.

Knows signals; must not know what stops.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NOTED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """The signals that came: `asked` is the last of them, 0 where there was none.

    `patient`: somebody else sees to impatience (the launcher, whose SIGINT comes a second time where a terminal sends
    it to all); otherwise a second SIGINT ends the program where it stands. The last checkpoint is whole anyway.
    """

    def __init__(self, *, patient: bool, asked: int = 0) -> None:
        self.patient, self.asked = patient, asked

    def note(self, number: int, _: FrameType | None) -> None:
        """A signal came."""
        if number == self.asked == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.asked = number


@contextmanager
def noted_signals(*, patient: bool = False) -> Iterator[Stop]:
    """Note them within the block; what a block around it has noted counts. What we were started to ignore (nohup) stays
    ignored, and outside the main thread, where Python allows no handlers, nothing is ever noted."""
    around = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    stop = Stop(patient=patient, asked=around.asked if isinstance(around, Stop) else 0)
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in NOTED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop.note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
