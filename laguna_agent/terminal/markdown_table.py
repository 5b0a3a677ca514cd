"""Tables: columns as wide as what is in them, cells wrapped where the screen is narrow.

Where even that leaves no room, a row becomes a list of `heading: cell`. Knows a table's lines; not where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.segment import Segment

from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.markdown_inline import inline
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, cells, joined

GAP = 2
LEAST = 6
"""Cells of the narrowest column that is still read as one."""
_BAR = re.compile(r"(?<!\\)\|")
_DELIMITER = re.compile(r"\| *:?-+:? *(?:\| *:?-+:? *)*\|? *$")

Cell = list[Segment]


def is_delimiter(line: str) -> bool:
    """Whether a line is what stands between a table's head and its rows."""
    return _DELIMITER.match(line) is not None


def table_lines(rows: Sequence[str], theme: Theme, width: int) -> list[Line]:
    """A table of at least a head and a delimiter, in rows of at most `width` cells."""
    head, aligned = _split(rows[0]), _split(rows[1])
    body = [_split(row) for row in rows[2:]]
    count = max(map(len, [head, *body]))
    sides = [_side(each) for each in aligned] + ["left"] * count
    strong = theme.style("strong")
    parsed = [[inline(theme, text, strong) for text in _filled(head, count)]]
    parsed += [[inline(theme, text) for text in _filled(row, count)] for row in body]
    wanted = [max(1, *(cells(row[column]) for row in parsed)) for column in range(count)]
    room = width - GAP * (count - 1)
    if sum(wanted) > room and room < LEAST * count:
        return _records(parsed, theme, width)
    widths = shared(wanted, room)
    drawn = [_row(row, widths, sides) for row in parsed]
    rule = (Segment((" " * GAP).join("\u2500" * each for each in widths), theme.style("rule")),)
    # Where cells take several rows, nothing else says where the next row of the table begins.
    between: list[Line] = [()] if any(len(each) > 1 for each in drawn[1:]) else []
    out = [*drawn[0], rule]
    for index, lines in enumerate(drawn[1:]):
        out += (between if index else []) + lines
    return out


def shared(wanted: Sequence[int], room: int) -> list[int]:
    """Widths that fit: what wants little gets it, the others share what is left."""
    widths = list(wanted)
    open_columns = set(range(len(widths)))
    left = room
    while open_columns and sum(widths[each] for each in open_columns) > left:
        fair = left // len(open_columns)
        small = {each for each in open_columns if widths[each] <= fair}
        if not small:
            for position, each in enumerate(sorted(open_columns)):
                widths[each] = max(1, fair + (position < left % len(open_columns)))
            break
        left -= sum(widths[each] for each in small)
        open_columns -= small
    return widths


def _row(row: Sequence[Cell], widths: Sequence[int], sides: Sequence[str]) -> list[Line]:
    columns = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines: list[Line] = []
    for index in range(max(map(len, columns))):
        line: Cell = []
        for column, (width, side) in zip(columns, zip(widths, sides, strict=False), strict=True):
            part = column[index] if index < len(column) else ()
            free = max(0, width - cells(part))
            before = {"left": 0, "right": free, "centre": free // 2}[side]
            line += [Segment(" " * before), *part, Segment(" " * (free - before + GAP))]
        lines.append(_stripped(line))
    return lines


def _records(rows: Sequence[Sequence[Cell]], theme: Theme, width: int) -> list[Line]:
    """One cell below the other, each behind its column's heading."""
    head, *body = rows
    out: list[Line] = []
    for row in body or [[[] for _ in head]]:
        if out:
            out.append(())
        for name, cell in zip(head, row, strict=True):
            label = [*name, Segment(": ", theme.style("strong"))] if name else []
            out += _wrapped([*label, *cell], width)
    return out


def _wrapped(cell: Cell, width: int) -> list[Line]:
    wrapper = Wrapper(width)
    for segment in cell:
        wrapper.feed(segment.text, segment.style)
    return wrapper.end() or [()]


def _stripped(line: Cell) -> Line:
    segments = joined(line)
    while segments and not segments[-1].text.strip(" "):
        segments.pop()
    if segments and segments[-1].style is None:
        segments[-1] = Segment(segments[-1].text.rstrip(" "))
    return tuple(segments)


def _split(line: str) -> list[str]:
    text = line.strip().removeprefix("|")
    if text.endswith("|") and not text.endswith("\\|"):
        text = text[:-1]
    return [part.strip().replace("\\|", "|") for part in _BAR.split(text)]


def _filled(row: Sequence[str], count: int) -> list[str]:
    return [*row, *[""] * (count - len(row))]


def _side(mark: str) -> str:
    if not mark.endswith(":"):
        return "left"
    return "centre" if mark.startswith(":") else "right"
