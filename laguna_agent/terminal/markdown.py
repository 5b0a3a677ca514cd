"""Markdown as it streams: rows that cannot change any more are given out, once; what is open is drawn anew.

What comes out depends on no split of the text, and a frame costs what is open, however long the answer is. The text
must have passed `visible`. Knows blocks and how they look; must not know who said them or where the rows go.
"""

from __future__ import annotations

import re

from rich.segment import Segment

from laguna_agent.terminal.highlight import Highlighter, lexer_of_language
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.markdown_blocks import Container, Fence, Reading, fence_of, is_text, read_line
from laguna_agent.terminal.markdown_inline import Inline, inline
from laguna_agent.terminal.markdown_table import is_delimiter, table_lines
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, cells, ending_of, fold, joined

TABLE_ROWS = 300
"""Rows of a table that are drawn at once; a longer one goes on under its head."""
RULE_CELLS = 40
CODE_INDENT = (Segment("  "),)
_PREVIEWED = 4_000
"""Characters of an unfinished line that are drawn while it is open."""
_HIDDEN = 12
"""Characters up to which an unfinished line that may be a mark is not drawn: it would only flicker."""
_LEADING = re.compile(r"(?:[ \t>]|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))*")


class Markdown:
    """One text, from its beginning to its end."""

    def __init__(self, theme: Theme, width: int) -> None:
        self._theme, self._width = theme, width
        self._fed: list[str] = []
        self._line = ""
        """The unfinished line, as far as it is not with its paragraph already."""
        self._streaming = False
        """Whether the line's beginning is."""
        self._containers: list[Container] = []
        self._leaf = self._last = ""
        """The kind of block that is open, and of the one before it."""
        self._blank = False
        self._inline = Inline(theme)
        self._wrapper = Wrapper(width)
        self._fence: Fence | None = None
        self._code = Highlighter(None)
        self._table: list[str] = []
        self._out: list[Line] = []
        self._begun = False

    def feed(self, text: str) -> None:
        """More of the text; the work is done when rows are asked for."""
        self._fed.append(text)

    def look(self, theme: Theme, width: int) -> None:
        """Draw with another theme or width what is not given out yet."""
        self._theme, self._width = theme, width
        self._wrapper.resize(width)

    def finished(self) -> list[Line]:
        """The rows that cannot change any more, each once."""
        first, *others = "".join(self._fed).split("\n")
        self._fed.clear()
        self._line += first
        for line in others:
            self._end_line()
            self._line = line
        self._stream()
        return self._take()

    def end(self) -> list[Line]:
        """The remaining rows: the text is over."""
        rows = self.finished()
        if self._line or self._streaming:
            self._end_line()
        self._line = ""
        self._close_leaf()
        self._close(0)
        return rows + self._take()

    def live(self, height: int) -> list[Line]:
        """What is open, as it looks now; at most `height` rows, its end. `finished` comes before it."""
        rows: list[Line] = []
        if self._leaf == "paragraph":
            wrapper = self._wrapper.copy()
            for segment in self._inline.guess():
                wrapper.feed(segment.text, segment.style)
            rows = wrapper.end()
        elif self._leaf == "table":
            rows = self._drawn_table([*self._table[:2], *self._table[2:][-height:]], mark=False)
        return (rows + self._preview())[-height:]

    def _take(self) -> list[Line]:
        rows, self._out = self._out, []
        self._begun = self._begun or bool(rows)
        return rows

    def _end_line(self) -> None:
        if self._streaming:
            self._say(self._line)
            self._streaming = False
        else:
            self._apply(read_line(_spaced(self._line), self._containers, self._leaf, self._fence))

    def _stream(self) -> None:
        """Give the unfinished line to its paragraph as soon as it can be nothing else."""
        if self._streaming:
            self._say(self._line)
            self._line = ""
        # Of a line of nothing but marks each frame looks at the beginning only.
        elif self._fence is None and is_text(_spaced(self._line[:_PREVIEWED])):
            reading = read_line(_spaced(self._line), self._containers, self._leaf, None)
            if reading.kind == "paragraph":
                self._apply(reading)
                self._line, self._streaming = "", True

    def _preview(self) -> list[Line]:
        """The unfinished line, where it is not with its paragraph yet."""
        line = self._line[-_PREVIEWED:].expandtabs(4)
        if self._fence is not None:
            if not line.strip() or line.strip(" >").startswith(self._fence.mark[0]):
                return []
            reading = read_line(_spaced(line), self._containers, self._leaf, self._fence)
            return self._coded(reading.rest, self._code.copy(), mark=False)
        text = line.lstrip()
        if text.startswith("#"):
            first, rest = self._prefix(mark=False)
            return fold(self._headed(text, ""), self._width, first, rest)
        if len(text) <= _HIDDEN or text.startswith(("|", "```", "~~~")):
            return []
        return fold([Segment(text)], self._width)

    def _apply(self, reading: Reading) -> None:
        if self._fence is not None:
            if reading.kind == "code":
                self._out += self._coded(reading.rest, self._code)
                return
            if reading.kind == "fence" and not reading.rest:
                self._close_leaf()
                return
        if reading.kind == "blank" and not reading.new:
            self._close_leaf()
            self._close(reading.matched)
            self._blank = True
            return
        if reading.matched < len(self._containers) or reading.new:
            self._close_leaf()
            self._close(reading.matched)
        if reading.kind != self._leaf or reading.kind in ("heading", "rule", "fence"):
            self._close_leaf()
            self._gap(reading)
            self._containers += reading.new
            if reading.kind != "blank":
                self._open(reading)
        else:
            self._go_on(reading)

    def _open(self, reading: Reading) -> None:
        """Begin a block with its first line."""
        self._last = reading.kind
        match reading.kind:
            case "heading":
                first, rest = self._prefix()
                wrapper = Wrapper(self._width, first, rest)
                for segment in self._headed("#" * reading.level, reading.rest):
                    wrapper.feed(segment.text, segment.style)
                self._out += wrapper.end()
            case "rule":
                first, _ = self._prefix()
                size = max(1, min(self._width - cells(first), RULE_CELLS))
                self._out += fold([Segment("\u2500" * size, self._theme.style("rule"))], self._width, first)
            case "fence":
                self._leaf, self._fence = "code", fence_of(reading.rest)
                self._code = Highlighter(lexer_of_language(reading.info.split(" ")[0].split(",")[0]))
            case "indented":
                self._leaf, self._code = "indented", Highlighter(None)
                self._out += self._coded(reading.rest, self._code)
            case "table":
                self._leaf, self._table = "table", [reading.rest]
            case _:
                self._begin_paragraph(reading.rest)

    def _go_on(self, reading: Reading) -> None:
        """Another line of the block that is open."""
        if self._leaf == "indented":
            self._out += self._coded(reading.rest, self._code)
        elif self._leaf == "table":
            if len(self._table) == 1 and not is_delimiter(reading.rest):
                self._close_leaf()
                self._open(reading)
                return
            self._table.append(reading.rest)
            if len(self._table) >= TABLE_ROWS:
                self._out += self._drawn_table(self._table)
                del self._table[2:]
        else:
            self._say("\n" + reading.rest)

    def _begin_paragraph(self, text: str) -> None:
        quoted = any(container.kind == "quote" for container in self._containers)
        first, rest = self._prefix()
        self._leaf = "paragraph"
        self._inline = Inline(self._theme, self._theme.style("quote") if quoted else None)
        self._wrapper = Wrapper(self._width, first, rest, link=self._theme.style("link"))
        self._say(text)

    def _say(self, text: str) -> None:
        for segment in self._inline.feed(text):
            self._wrapper.feed(segment.text, segment.style)
        self._out += self._wrapper.take()

    def _close_leaf(self) -> None:
        leaf, self._leaf = self._leaf, ""
        if leaf == "paragraph":
            for segment in self._inline.end():
                self._wrapper.feed(segment.text, segment.style)
            self._out += self._wrapper.end()
        elif leaf == "table":
            table, self._table = self._table, []
            if len(table) > 1:
                self._out += self._drawn_table(table)
            else:
                self._begin_paragraph(table[0])
                self._close_leaf()
        elif leaf == "code":
            self._fence = None

    def _close(self, count: int) -> None:
        """Close the containers behind the first `count`."""
        while len(self._containers) > count:
            if self._containers[-1].marker and not self._containers[-1].shown:
                # An item without any text is seen all the same.
                self._out.append(_trimmed(self._prefix()[0]))
            self._containers.pop()

    def _gap(self, reading: Reading) -> None:
        """An empty row before a block, where the text has one or the block needs one to be seen as such."""
        listed = any(container.kind == "item" for container in (*self._containers, *reading.new))
        apart = not listed and (
            reading.kind in ("heading", "fence", "table", "rule") or self._last in ("code", "fence")
        )
        if (self._blank or apart) and (self._begun or self._out) and self._last:
            self._out.append(_trimmed(self._prefix(mark=False)[1]))
        self._blank = False

    def _prefix(self, *, mark: bool = True) -> tuple[Line, Line]:
        """What stands before the first row of a block, and before its other rows."""
        first: list[Segment] = []
        rest: list[Segment] = []
        for container in self._containers:
            if container.kind == "quote":
                bar = Segment("\u2502 ", self._theme.style("dim"))
                first.append(bar)
                rest.append(bar)
                continue
            space = Segment(" " * len(container.marker))
            first.append(space if container.shown else Segment(container.marker, self._theme.style("dim")))
            rest.append(space)
            container.shown = container.shown or mark
        return tuple(joined(first)), tuple(joined(rest))

    def _headed(self, marks: str, text: str) -> list[Segment]:
        style = self._theme.style("heading")
        return [Segment(marks + " ", style), *inline(self._theme, text, style)]

    def _coded(self, text: str, code: Highlighter, *, mark: bool = True) -> list[Line]:
        if self._fence is not None:
            text = text[min(self._fence.indent, len(text) - len(text.lstrip(" "))) :]
        first, rest = self._prefix(mark=mark)
        segments = code.line(text.expandtabs(4), self._theme)
        # A row that a screen's end made, not the code, is marked: what is indented has a meaning.
        goes_on = Segment("\u2506 ", self._theme.style("dim"))
        rows = fold(segments, self._width, (*first, *CODE_INDENT), (*rest, goes_on))
        return rows if segments else [_trimmed(rows[0])]

    def _drawn_table(self, table: list[str], *, mark: bool = True) -> list[Line]:
        first, rest = self._prefix(mark=mark)
        first, rest = ending_of(first, self._width // 2), ending_of(rest, self._width // 2)
        if len(table) == 1:
            return fold([Segment(table[0].expandtabs(4))], self._width, first, rest)
        lines = table_lines(table, self._theme, self._width - cells(rest))
        return [(*(rest if index else first), *line) for index, line in enumerate(lines)]


def _spaced(line: str) -> str:
    """The line with spaces for the tabs before its text."""
    leading = _LEADING.match(line)
    return line if leading is None else leading[0].expandtabs(4) + line[leading.end() :]


def _trimmed(line: Line) -> Line:
    """A line without text, without the spaces that nobody sees."""
    text = "".join(segment.text for segment in line).rstrip()
    return tuple(fold([Segment(text, line[0].style if line else None)], 1_000)[0]) if text else ()
