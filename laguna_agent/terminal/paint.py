"""Writing to the terminal: whole frames at once, finished lines above the part that changes, and a way back.

Knows prompt_toolkit's output and renderer; must not know what the lines say. A frame goes out as one write, between the
marks of a synchronized update (https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036), so no
terminal ever shows half of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from rich.color import ColorSystem

from laguna_agent.terminal.lines import Line, ansi

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGIN_UPDATE, END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
SMALLEST = Size(rows=4, columns=20)
"""What is drawn for where the terminal says less, or nothing."""


class Output(Vt100_Output):
    """The terminal's output. Within `frame` nothing leaves; what came together leaves as one write."""

    def __init__(self, stdout: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self.colours = colour_system(environment)
        # No report of the cursor's place is asked for: its answer would come between what the person types.
        super().__init__(
            stdout,
            lambda: size_of(stdout.fileno()),
            term=environment.get("TERM"),
            default_color_depth=_DEPTHS[self.colours],
            enable_cpr=False,
        )
        self._frames = 0
        self._screen = stdout

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Everything that is written within goes out together."""
        self._frames += 1
        try:
            yield
        finally:
            self._frames -= 1
            self.flush()

    def flush(self) -> None:
        if self._frames or not self._buffer:
            return
        text = f"{BEGIN_UPDATE}{''.join(self._buffer)}{END_UPDATE}"
        self._buffer.clear()
        # A terminal that is gone says so with a signal too; here there is nothing left to be done.
        with suppress(OSError):
            write_all(self._screen.fileno(), text)

    def write_lines(self, lines: Iterable[Line]) -> None:
        """Finished lines, from where the cursor is."""
        self.write_raw(ansi(lines, self.colours))


def write_all(descriptor: int, text: str) -> None:
    """Write to a terminal that may be slow, or not block. Raises OSError where it is gone."""
    data = memoryview(text.encode("utf-8", "replace"))
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            import select

            select.select([], [descriptor], [])


def size_of(descriptor: int) -> Size:
    """Rows and columns of a terminal, never fewer than can be drawn in."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return Size(rows=24, columns=80)
    if not columns or not rows:
        return Size(rows=24, columns=80)
    return Size(rows=max(rows, SMALLEST.rows), columns=max(columns, SMALLEST.columns))


def colour_system(environment: Mapping[str, str]) -> ColorSystem | None:
    """The colours that the terminal has; None where the person wants none (https://no-color.org)."""
    term = environment.get("TERM", "")
    if environment.get("NO_COLOR") or term == "dumb":
        return None
    if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return ColorSystem.TRUECOLOR
    if "256color" in term or "kitty" in term or "direct" in term:
        return ColorSystem.EIGHT_BIT
    return ColorSystem.STANDARD


_DEPTHS = {
    None: ColorDepth.DEPTH_1_BIT,
    ColorSystem.STANDARD: ColorDepth.DEPTH_4_BIT,
    ColorSystem.EIGHT_BIT: ColorDepth.DEPTH_8_BIT,
    ColorSystem.TRUECOLOR: ColorDepth.DEPTH_24_BIT,
}


def wraps_again(environment: Mapping[str, str]) -> bool:
    """Whether the terminal wraps its rows anew when its width changes. All do that are made today; xterm, the console
    of Linux and GNU screen cut rows off instead."""
    if environment.get("TMUX"):
        return True
    term = environment.get("TERM", "")
    return not ("XTERM_VERSION" in environment or term == "linux" or term.startswith("screen"))


class BottomApplication(Application[Any]):
    """An application at the bottom of the terminal's normal screen, with finished lines above it."""

    painter: Output

    def insert_above(self, lines: Iterable[Line]) -> None:
        """Put finished lines into the history; what changes is drawn anew below them. In the application's context."""
        with self.painter.frame():
            self.renderer.erase(leave_alternate_screen=False)
            self.painter.write_lines(lines)
            self._redraw()

    def _on_resize(self) -> None:
        # prompt_toolkit goes up as many rows as it has drawn; a terminal that wraps anew has made more of them.
        with self.painter.frame():
            rows = self._rows_above_cursor()
            self.painter.write_raw("\r" + (f"\x1b[{rows}A" if rows else "") + "\x1b[0m\x1b[J")
            self.renderer.reset(leave_alternate_screen=False)
            self._redraw()

    def _rows_above_cursor(self) -> int:
        """How many rows of the screen, at its width now, lie between the first that was drawn and the cursor."""
        cursor = self.renderer._cursor_pos
        screen = self.renderer.last_rendered_screen
        if screen is None or not wraps_again(os.environ):
            return cursor.y
        columns = self.painter.get_size().columns
        rows = 0
        for y in range(cursor.y):
            row = screen.data_buffer[y]
            width = max(
                (x + cell.width for x, cell in row.items() if cell.char != " " or "bg" in cell.style), default=0
            )
            rows += max(1, -(-width // columns))
        return rows + cursor.x // columns
