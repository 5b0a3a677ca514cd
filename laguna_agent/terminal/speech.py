"""What is said in pieces: an answer as markdown, a thought folded to a line, what a command of the person prints.

Knows a stretch of text from its first piece to its last; must not know what comes between two of them.
"""

from __future__ import annotations

from collections import deque

from rich.segment import Segment

from laguna_agent.event_lines import printable
from laguna_agent.terminal.cards import FOLDED_CHARACTERS, HINT, Fold, overwritten
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.markdown import Markdown
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import Wrapper, cells, clipped, fold, wrapped
from laguna_agent.visible import Revealer

THOUGHT_ROWS = 3
_OPEN = 4_000
"""Characters of an unfinished line that are drawn."""
_INDENT = (Segment("  "),)


class Speech:
    """One stretch of the answer."""

    def __init__(self, theme: Theme, width: int) -> None:
        self._revealer = Revealer()
        self._markdown = Markdown(theme, width)
        self._fed: list[str] = []

    def feed(self, text: str) -> None:
        """A piece of it."""
        self._fed.append(text)

    def finished(self, theme: Theme, width: int) -> list[Line]:
        """Rows that cannot change any more."""
        self._markdown.look(theme, width)
        self._hear(final=False)
        return self._markdown.finished()

    def end(self, theme: Theme, width: int) -> list[Line]:
        """The rows that are left."""
        self._markdown.look(theme, width)
        self._hear(final=True)
        return self._markdown.end()

    def live(self, height: int) -> list[Line]:
        """The open rows."""
        return self._markdown.live(height)

    def _hear(self, *, final: bool) -> None:
        # A carriage return is shown unless a line end follows, to which it then belongs.
        text = self._revealer.feed("".join(self._fed), final=final)
        self._fed.clear()
        self._markdown.feed(text.replace("\r", "").replace("\f", "\\u{C}"))


class Output:
    """What a command that the person started prints, as it is."""

    def __init__(self) -> None:
        self._text = ""
        self._look: tuple[Theme, int] | None = None

    def feed(self, text: str) -> None:
        """A piece of it."""
        self._text += text

    def finished(self, theme: Theme, width: int) -> list[Line]:
        """The lines that are complete."""
        self._look = theme, width
        complete, end, self._text = self._text.rpartition("\n")
        return self._drawn(complete) if end else []

    def end(self, theme: Theme, width: int) -> list[Line]:
        """The rows that are left."""
        rows = self.finished(theme, width)
        text, self._text = self._text, ""
        return rows + (self._drawn(text) if text else [])

    def live(self, height: int) -> list[Line]:
        """The line that is open."""
        return self._drawn(self._text[-_OPEN:])[-height:] if self._text else []

    def _drawn(self, text: str) -> list[Line]:
        if self._look is None:
            return []
        theme, width = self._look
        style = theme.style("text")
        lines = (overwritten(line).expandtabs(8) for line in text.split("\n"))
        return [row for line in lines for row in fold([Segment(line, style)] if line else [], width)]


class Thought:
    """One stretch of reasoning: its last rows while it goes on, a line once it is over."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._words = 0
        self._in_word = False
        self._unread: list[str] = []
        self._revealer = Revealer()
        self._wrapper = Wrapper(1, _INDENT, _INDENT, exact=True)
        self._rows: deque[Line] = deque(maxlen=THOUGHT_ROWS)

    def feed(self, text: str) -> None:
        """A piece of it."""
        words = len(text.split())
        if words and self._in_word and not text[0].isspace():
            words -= 1
        self._words += words
        self._in_word = not text[-1:].isspace() if text else self._in_word
        self._unread.append(text)
        if self._size < FOLDED_CHARACTERS:
            self._parts.append(text[: FOLDED_CHARACTERS - self._size])
            self._size += len(self._parts[-1])

    def live(self, width: int, theme: Theme) -> list[Line]:
        """The last rows. What stands in one stays there while the next ones come."""
        style = theme.style("thought")
        self._wrapper.resize(width)
        text = self._revealer.feed("".join(self._unread))
        self._unread.clear()
        self._wrapper.feed(text.replace("\r", "").replace("\f", "\\u{C}"), style)
        self._rows += _written(self._wrapper.take())
        rows = [row for row in self._rows if cells(row) <= width] + _written(self._wrapper.copy().end())
        return [clipped([Segment("\u00b7 thinking", style)], width), *rows[-THOUGHT_ROWS:]]

    def end(self, theme: Theme, width: int, folds: deque[Fold]) -> list[Line]:
        """What stands in the history; a thought that fits a row is shown, a longer one can be unfolded."""
        text = printable("".join(self._parts).strip()).expandtabs(4)
        whole = Segment(f"\u00b7 {text}", theme.style("thought"))
        if "\n" not in text and cells([whole]) <= width:
            return [(whole,)]
        folds.append(lambda width, theme: _unfolded(text, width, theme))
        words = Segment(f"\u00b7 thought for {self._words:,} words ({HINT})", theme.style("thought"))
        return [clipped([words], width)]


def _written(rows: list[Line]) -> list[Line]:
    return [row for row in rows if "".join(segment.text for segment in row).strip()]


def _unfolded(text: str, width: int, theme: Theme) -> list[Line]:
    style = theme.style("thought")
    more = "\n\u2026" if len(text) >= FOLDED_CHARACTERS else ""
    return wrapped(text + more, width, style, (Segment("\u00b7 ", style),), (Segment("  "),))
