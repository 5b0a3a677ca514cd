"""Text in rows of a given width, with every character kept: what a person allows must be there whole.

`wrapping` is for prose, which loses the spaces where its rows end. Widths are cells, as the terminal counts them. Knows
text that is printable already; must not know what it says.
"""

from __future__ import annotations

from rich.cells import cell_len, split_graphemes
from rich.segment import Segment
from rich.style import Style

from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.wrapping import clipped

TAB = 4


def folded(text: str, width: int) -> list[str]:
    """The rows of `text`, each at most `width` cells; broken after a space where there is one in the row's last third,
    and nothing is left out but the line ends themselves."""
    width = max(2, width)
    return [row for line in text.expandtabs(TAB).split("\n") for row in _rows(line, width)]


def _rows(line: str, width: int) -> list[str]:
    if line.isascii() and len(line) <= width:
        return [line]
    rows: list[str] = []
    row, cells = "", 0
    for start, end, more in split_graphemes(line)[0]:
        if cells + more > width and row:
            space = row.rfind(" ") + 1
            kept = row[:space] if space > len(row) * 2 // 3 else row
            rows.append(kept)
            row = row[len(kept) :]
            cells = cell_len(row)
        row += line[start:end]
        cells += more
    return [*rows, row]


def hanging(text: str, width: int, style: Style, first: str = "", mark: Style | None = None) -> list[Line]:
    """`text` folded behind `first`, in the style `mark`; further rows stand as far to the right."""
    # On a narrow screen what stands before must leave room.
    first = first if cell_len(first) <= width // 2 else ""
    indent = cell_len(first)
    lines: list[Line] = []
    for at, row in enumerate(folded(text, width - indent)):
        before = first if at == 0 else " " * indent
        segments = [Segment(before, (mark or style) if at == 0 else None), Segment(row, style)]
        lines.append(tuple(segment for segment in segments if segment.text))
    return lines


def cut(text: str, width: int) -> str:
    """`text`, of one line, in at most `width` cells; an ellipsis stands for what does not fit."""
    if width < 2:
        return "\u2026"[:width] if cell_len(text) > max(0, width) else text
    return "".join(segment.text for segment in clipped([Segment(text.expandtabs(1))], width))
