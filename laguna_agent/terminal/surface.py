"""The part of the screen that changes: what is open of the turn, the input line or a panel, the status line.

Knows where things stand and who has the keyboard; must not know what a prompt, a turn or a command is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import DynamicKeyBindings, KeyBindings, KeyBindingsBase, merge_key_bindings
from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.styles import DynamicStyle

from laguna_agent.terminal.face import Panel
from laguna_agent.terminal.lines import Line, fragments
from laguna_agent.terminal.paint import BottomApplication, Output

if TYPE_CHECKING:
    from prompt_toolkit.input import Input

    from laguna_agent.terminal.composer import Composer
    from laguna_agent.terminal.theme import Theme

R = TypeVar("R")
ESCAPE_WAIT = 0.04
"""Seconds in which the rest of a key's sequence follows its escape, also over a slow line."""
BESIDE_PANEL = 6
"""Of so many rows of the screen, the open part of a turn takes one while a panel is shown."""
KEPT_ROWS = 8
"""Rows of the screen that the open part of a turn leaves free."""


class Surface:
    """The application at the bottom of the screen. `status` and `live` give what they show when they are drawn."""

    def __init__(
        self,
        *,
        output: Output,
        input: Input,
        composer: Composer,
        keys: KeyBindings,
        live: Callable[[int, int], list[Line]],
        status: Callable[[int], Line],
        theme: Callable[[], Theme],
    ) -> None:
        self.output = output
        self.composer = composer
        self._live = live
        self._status = status
        self._panel: Panel[Any] | None = None
        self._keyboard = asyncio.Lock()
        panel_control = FormattedTextControl(self._panel_fragments, focusable=True, show_cursor=False)
        self._panel_window = Window(panel_control, dont_extend_height=True, always_hide_cursor=True)
        choosing = Condition(lambda: self._panel is not None and self._panel.reading is None)
        body = HSplit(
            [
                Window(FormattedTextControl(self._live_fragments), dont_extend_height=True),
                ConditionalContainer(self._panel_window, filter=choosing),
                ConditionalContainer(composer.container, filter=~choosing),
                Window(FormattedTextControl(self._status_fragments), height=1, dont_extend_height=True),
            ]
        )
        bindings: list[KeyBindingsBase] = [keys, DynamicKeyBindings(self._panel_keys)]
        self.app = BottomApplication(
            layout=Layout(body, focused_element=composer.control),
            style=DynamicStyle(lambda: theme().prompt_toolkit),
            key_bindings=merge_key_bindings(bindings),
            editing_mode=composer.editing_mode,
            output=output,
            input=input,
            erase_when_done=True,
            enable_page_navigation_bindings=False,
        )
        self.app.painter = output
        self.app.ttimeoutlen = ESCAPE_WAIT
        self.app.timeoutlen = 5 * ESCAPE_WAIT
        self.app.key_processor.after_key_press += lambda _: self._follow_panel()
        self._last_key = monotonic()
        self.app.key_processor.before_key_press += self._note_key

    @property
    def panel(self) -> Panel[Any] | None:
        """What has the keyboard, if it is not the input line."""
        return self._panel

    @property
    def columns(self) -> int:
        return self.output.get_size().columns

    @property
    def live_rows(self) -> int:
        """Rows that the open part of a turn may take: few beside a panel, which must be seen whole."""
        rows = self.output.get_size().rows
        return max(1, rows - KEPT_ROWS) if self._panel is None else max(2, rows // BESIDE_PANEL)

    def put(self, lines: Iterable[Line]) -> None:
        """Finished lines into the history; before the application runs and after it, straight to the terminal."""
        if self.app.is_running:
            self.app.insert_above(lines)
        else:
            self.output.write_lines(lines)
            self.output.flush()

    @property
    def quiet(self) -> float:
        """Seconds since the last key."""
        return monotonic() - self._last_key

    def write(self, orders: str) -> None:
        """Orders of our own for the terminal, such as a bell, that move nothing on the screen."""
        if orders:
            self.output.write_raw(orders)
            self.output.flush()

    def when_drawn(self, then: Callable[[], None]) -> None:
        """Have something done once, after the next frame."""

        def drawn(_: object) -> None:
            self.app.after_render -= drawn
            then()

        self.app.after_render += drawn

    def draw(self) -> None:
        """Draw what may have changed."""
        self.app.invalidate()

    async def show(self, panel: Panel[R]) -> R:
        """Give the keyboard to a panel until it is done."""
        async with self._keyboard:
            result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
            panel.done = lambda value: None if result.done() else result.set_result(value)
            self.composer.take_draft()
            self._panel = panel
            self._focus()
            try:
                return await result
            finally:
                self._panel = None
                self.composer.restore_draft()
                self._focus()

    def _follow_panel(self) -> None:
        """A key may have made the panel begin or end to read a text."""
        panel = self._panel
        if panel is not None and self.app.layout.has_focus(self._panel_window) == (panel.reading is not None):
            self._focus()

    def _focus(self) -> None:
        """The keyboard goes to whom it belongs."""
        panel = self._panel
        self.composer.label = panel.reading if panel is not None and panel.reading is not None else ""
        if panel is not None and panel.reading is None:
            self.app.layout.focus(self._panel_window)
        else:
            self.app.layout.focus(self.composer.control)
        self.draw()

    def _note_key(self, _: object) -> None:
        self._last_key = monotonic()

    def _panel_keys(self) -> KeyBindingsBase | None:
        return self._panel.keys if self._panel is not None and self._panel.reading is None else None

    def _live_fragments(self) -> StyleAndTextTuples:
        # The free line keeps what is typed apart from what is said; without text a window is a free line.
        lines = self._live(self.columns, self.live_rows)
        return [*fragments(lines), ("", "\n")] if lines else []

    def _panel_fragments(self) -> StyleAndTextTuples:
        if self._panel is None:
            return []
        size = self.output.get_size()
        # What a panel takes for shown must not be cut off: above it are the open part and a free line, below the status
        above = len(self._live(self.columns, self.live_rows)) + 1
        return fragments(self._panel.lines(size.columns - 1, max(3, size.rows - above - 1)))

    def _status_fragments(self) -> StyleAndTextTuples:
        return fragments([self._status(self.columns - 1)])
