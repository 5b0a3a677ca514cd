"""The cells of the emulated terminal: pyte's screen with a scrollback, and with what terminals of today do on resize.

Knows cells and rows; must not know processes. Most terminals (kitty, VTE, iTerm2, Windows Terminal, tmux) wrap the rows
anew when they become narrower, also those that a program believes to be its own: that is what leaves ghosts behind.
xterm cuts them off instead; `reflow` chooses.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pyte
from pyte.screens import Char

Row = Any
"""pyte's row: a dict from column to Char, with a default. Ours carry `wrapped`: how many cells
are text, where it goes on in the next row, else 0."""

HISTORY_ROWS = 20_000
_JOINED = re.compile("([^\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f]*)([\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f]?)")


class Grid(pyte.Screen):
    """A screen whose rows go into `scrolled` when they leave it at the top."""

    def __init__(self, columns: int, lines: int, *, reflow: bool = True) -> None:
        self.scrolled: list[Row] = []
        self.answers: list[str] = []
        self.reflow = reflow
        self._drawing = False
        super().__init__(columns, lines)

    def rows(self) -> list[str]:
        """The text of the screen, from the top, without trailing blanks."""
        return [row_text(self.buffer[y], self.columns) for y in range(self.lines)]

    def all_rows(self) -> list[str]:
        """The text of the scrollback and the screen."""
        return [row_text(row, self.columns) for row in self.scrolled] + self.rows()

    def write_process_input(self, data: str) -> None:
        """What the terminal answers to a program that asks it (where the cursor is, for one)."""
        self.answers.append(data)

    def index(self) -> None:
        top, bottom = self.margins or (0, self.lines - 1)
        if self.cursor.y == bottom and top == 0:
            self.scrolled.append(self.buffer[0])
            del self.scrolled[:-HISTORY_ROWS]
        super().index()

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        if how == 3:
            self.scrolled.clear()
            return
        super().erase_in_display(how, *args, **kwargs)
        for y in {0: range(self.cursor.y, self.lines), 1: range(self.cursor.y), 2: range(self.lines)}.get(how, ()):
            self.buffer[y].wrapped = 0

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        super().erase_in_line(how, private)
        if how != 1:
            self.buffer[self.cursor.y].wrapped = 0

    def draw(self, data: str) -> None:
        self._drawing = True
        for text, joiner in _JOINED.findall(data):
            super().draw(text)
            if joiner and self.cursor.x:
                # pyte would drop the rest of the text here.
                self._join(joiner)
        self._drawing = False

    def _join(self, joiner: str) -> None:
        row = self.buffer[self.cursor.y]
        x = self.cursor.x - 1
        x -= row[x].data == "" and x > 0
        row[x] = row[x]._replace(data=row[x].data + joiner)

    def carriage_return(self) -> None:
        if self._drawing:
            # Only text that runs over the right margin gets here while it is drawn.
            self.buffer[self.cursor.y].wrapped = self.columns
        super().carriage_return()

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Another size. The cursor stays on its character; what finds no room on the screen goes to the scrollback."""
        lines, columns = lines or self.lines, columns or self.columns
        last = max((y for y in range(self.lines) if row_text(self.buffer[y], self.columns)), default=0)
        rows = [self.buffer[y] for y in range(max(last, self.cursor.y) + 1)]
        at = len(self.scrolled) + self.cursor.y, min(self.cursor.x, self.columns)
        rows = self.scrolled + rows
        if columns != self.columns and self.reflow:
            rows, at = _wrapped_anew(rows, at, columns, self.default_char)
        elif columns < self.columns:
            for row in rows:
                if row[columns].data == "":
                    row.pop(columns - 1)
                for x in range(columns, self.columns):
                    row.pop(x, None)
        # Blank rows below the text go first; where the screen grows, rows come back from the scrollback.
        first = max(0, len(rows) - lines)
        first = min(first, at[0])
        self.scrolled = rows[:first]
        self.lines, self.columns = lines, columns
        self.set_margins()
        self.buffer.clear()
        for y, row in enumerate(rows[first : first + lines]):
            self.buffer[y] = row
        self.cursor.y, self.cursor.x = min(at[0] - first, lines - 1), min(at[1], columns - 1)
        self.dirty.update(range(lines))
        self.tabstops = set(range(8, columns, 8))


def row_text(row: Row, columns: int) -> str:
    """The text of a row, without trailing blanks; a wide character counts once."""
    return "".join(row[x].data for x in range(columns)).rstrip()


def _wrapped_anew(rows: list[Row], at: tuple[int, int], new: int, blank: Char) -> tuple[list[Row], tuple[int, int]]:
    """The rows at another width, and the cursor's place (row, column) among them."""
    made: list[Row] = []
    place = at
    y = 0
    while y < len(rows):
        first = y
        while getattr(rows[y], "wrapped", 0) and y + 1 < len(rows):
            y += 1
        y += 1
        cells: list[Char] = []
        cursor = None
        for number in range(first, y):
            row = rows[number]
            if at[0] == number:
                cursor = len(cells) + at[1]
            end = row.wrapped if number < y - 1 else max((x + 1 for x in row if row[x] != blank), default=0)
            cells += [row[x] for x in range(end)]
        made_here, where = _cut(cells, cursor, new, rows[first])
        if where is not None:
            place = len(made) + where[0], where[1]
        made += made_here
    return made, place


def _cut(cells: list[Char], cursor: int | None, columns: int, like: Row) -> tuple[list[Row], tuple[int, int] | None]:
    """One logical line in rows of `columns`; no wide character is cut in two."""
    out: list[Row] = []
    where = None
    at = 0
    while True:
        end = min(at + columns, len(cells))
        if end < len(cells) and cells[end].data == "" and end - 1 > at:
            end -= 1
        row = copy.copy(like)
        row.clear()
        row.update(enumerate(cells[at:end]))
        row.wrapped = end - at if end < len(cells) else 0
        if cursor is not None and (at <= cursor < end or not row.wrapped) and where is None:
            where = len(out), min(cursor - at, columns - 1)
        out.append(row)
        at = end
        if at >= len(cells):
            return out, where
