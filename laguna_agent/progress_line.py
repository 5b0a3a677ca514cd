"""The one line of the screen that changes: how far the model's server is before its first token.

Knows the terminal behind stderr; where there is none, nothing is ever shown. Work of less than a second is not worth a
line: it only flickers.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from laguna_agent.event_lines import one_line, progress_line

if TYPE_CHECKING:
    from laguna_agent.agent.events import ModelProgress

PATIENCE = 1.0
"""Seconds that work of one kind takes until a line tells of it."""
ERASE = "\r\x1b[K"


class ProgressLine:
    """Shown with `show`, and gone with `clear`, which must come before anything else is written to the terminal.

    A timer draws it, for a request that waits may have nothing more to report.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._stage = self._text = ""
        self._timer: threading.Timer | None = None
        self._visible = False

    def show(self, event: ModelProgress) -> None:
        """Tell of progress, once that stage has taken long enough; work that is done is told of no longer."""
        if not self._terminal:
            return
        if event.stage != self._stage or (event.total and event.done >= event.total):
            self.clear()
        if event.total and event.done >= event.total:
            return
        with self._lock:
            self._stage, self._text = event.stage, progress_line(event)
            if self._visible:
                self._draw()
            elif self._timer is None:
                self._timer = threading.Timer(PATIENCE, self._appear)
                self._timer.daemon = True
                self._timer.start()

    def clear(self) -> None:
        """Leave the terminal as it was before."""
        if self._timer is None:
            return
        with self._lock:
            self._timer.cancel()
            self._timer, self._stage = None, ""
            if self._visible:
                self._visible = False
                _write(ERASE)

    def _appear(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._visible = True
                self._draw()

    def _draw(self) -> None:
        # One column stays free: a terminal that wraps could not erase the line.
        _write(ERASE + one_line(self._text, shutil.get_terminal_size().columns - 1))


def _write(text: str) -> None:
    """Dropped rather than waited for where the terminal takes nothing."""
    with suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode(errors="replace"))
