"""Text in rows of a given width, with every character kept: what a person allows must be there whole.

Widths are cells, as the terminal counts them. Knows text that is printable already; must not know what it says.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from laguna_agent.terminal.lines import Line

TAB = 4
ELLIPSIS = "\u2026"


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
    for character in line:
        more = cell_len(character)
        if cells + more > width and row:
            space = row.rfind(" ") + 1
            kept = row[:space] if space > len(row) * 2 // 3 else row
            rows.append(kept)
            row = row[len(kept) :]
            cells = cell_len(row)
        row += character
        cells += more
    return [*rows, row]


def hanging(text: str, width: int, style: Style, first: str = "", mark: Style | None = None) -> list[Line]:
    """`text` folded behind `first`, in the style `mark`; further rows stand as far to the right."""
    indent = cell_len(first)
    rows = folded(text, width - indent)
    lines: list[Line] = []
    for at, row in enumerate(rows):
        before = first if at == 0 else " " * indent
        segments = [Segment(before, (mark or style) if at == 0 else None), Segment(row, style)]
        lines.append(tuple(segment for segment in segments if segment.text))
    return lines


def cut(text: str, width: int) -> str:
    """`text`, of one line, in at most `width` cells; what does not fit is an ellipsis."""
    text = text.expandtabs(1)
    if cell_len(text) <= width:
        return text
    kept = ""
    cells = cell_len(ELLIPSIS)
    for character in text:
        cells += cell_len(character)
        if cells > width:
            break
        kept += character
    return (kept + ELLIPSIS) if width > 0 else ""


def width_of(line: Line) -> int:
    """The cells that a line takes."""
    return sum(cell_len(segment.text) for segment in line)
