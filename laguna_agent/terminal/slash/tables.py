"""Small tables and lists as commands show them: columns without lines between them, made printable.

Knows rows of words and styles of the theme; must not know what they are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from laguna_agent.event_lines import printable

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face
    from laguna_agent.terminal.theme import Theme

Cell = str | tuple[str, str]
"""Words, or (words, name of their style)."""


def show(face: Face, *parts: RenderableType) -> None:
    """Say something of several rows, apart from what stands above."""
    face.say(Group("", *parts))


def counted(number: int, noun: str) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def indented(part: RenderableType) -> Padding:
    """Two columns to the right, all rows of it."""
    return Padding(part, (0, 0, 0, 2))


def text(theme: Theme, *cells: Cell) -> Text:
    """Words one behind the other, each in its style; nothing in them is markup or an order to the terminal."""
    whole = Text()
    for cell in cells:
        words, style = (cell, "text") if isinstance(cell, str) else cell
        whole.append(printable(words).expandtabs(4), theme.style(style))
    return whole


def table(theme: Theme, rows: Iterable[Sequence[Cell]], right: Iterable[int] = (), narrow: bool = False) -> Table:
    """Rows as columns, those of `right` to the right. `narrow` folds the first column too where room is short; else it
    is shown whole."""
    rows = [list(row) for row in rows]
    columns, aligned = max((len(row) for row in rows), default=1), set(right)
    made = Table.grid(padding=(0, 2, 0, 0))
    for at in range(columns):
        whole = at == 0 and not narrow
        made.add_column(justify="right" if at in aligned else "left", no_wrap=whole, overflow="fold")
    for row in rows:
        made.add_row(*(text(theme, cell) for cell in row))
    return made
