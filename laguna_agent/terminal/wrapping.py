"""Text in rows: words that come in any pieces, and code that is cut where the screen ends.

Counts cells, not characters: wide, combining and joined characters included. A row that was given out never changes,
and what comes out depends on no split of what came in. Knows styles as things to carry along; not what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, get_character_cell_size, split_graphemes
from rich.segment import Segment
from rich.style import Style

from laguna_agent.terminal.lines import Line

JOINER = "\u200d"
_PIECES = re.compile(r"\n|[ \t]+|[^ \t\n]+")
_ADDRESS = re.compile(r"\W{0,3}https?://")
_DECIDED = 16
"""Characters after which a word is known to be an address or none."""
_KEPT_BEHIND = frozenset("、。，．！？：；）］｝」』】〉》’”…—ー々っゃゅょッャュョ%％!?)]}.,:;'\"\u3000")
_KEPT_BEFORE = frozenset("（［｛「『【〈《‘“([{'\"")
_SKIN = re.compile("[\U0001f3fb-\U0001f3ff]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")


class Wrapper:
    """Words into rows. `width` counts the prefix too: `first` stands before the first row, `rest` before the others.

    `exact` keeps spaces as they are, for what a person typed; else a run of them is one. `link` is the style of words
    that are addresses.
    """

    def __init__(
        self, width: int, first: Line = (), rest: Line = (), *, exact: bool = False, link: Style | None = None
    ) -> None:
        self.width = width
        self._first, self._rest = first, rest
        self._exact, self._link = exact, link
        self._rows: list[Line] = []
        self._row: list[Segment] = []
        self._used = 0
        self._space: Segment | None = None
        self._word: list[Segment] = []
        self._text = ""
        self._linked = False
        self._long = max(width, _DECIDED)
        """Characters of the word beyond which it is looked at, whether it still fits a row."""

    def feed(self, text: str, style: Style | None = None) -> None:
        """More text; line ends in it end rows."""
        for match in _PIECES.finditer(text):
            piece = match[0]
            if piece == "\n":
                self._place()
                self._break()
                self._space = None
            elif piece[0] in " \t":
                self._place()
                self._add_space(piece, style)
            elif piece.isascii():
                if self._text and not self._text.isascii() and _breaks(self._text[-1], piece[0]):
                    self._place()
                self._grow(piece, style)
            else:
                self._grow_wide(piece, style)

    def take(self) -> list[Line]:
        """The rows that are complete, once."""
        rows, self._rows = self._rows, []
        return rows

    def end(self) -> list[Line]:
        """What there is left; afterwards the next text begins a new row."""
        self._place()
        if self._row:
            self._break()
        self._space = None
        return self.take()

    def copy(self) -> Wrapper:
        """The same, to try out how it goes on."""
        other = Wrapper(self.width, self._first, self._rest, exact=self._exact, link=self._link)
        other._row, other._used, other._space = list(self._row), self._used, self._space
        other._word, other._text, other._linked = list(self._word), self._text, self._linked
        return other

    def resize(self, width: int) -> None:
        """Go on in another width, with what is in no complete row yet."""
        if width == self.width:
            return
        row, word, space = self._row, self._word, self._space
        self.width, self._row, self._used, self._space, self._word, self._text = width, [], 0, None, [], ""
        self._long = max(width, _DECIDED)
        for segment in row:
            self.feed(segment.text, segment.style)
        self._place()
        self._space = space
        for segment in word:
            self.feed(segment.text, segment.style)

    @property
    def room(self) -> int:
        """Cells of a row that are for words."""
        return max(1, self.width - cells(self._prefix()))

    def _prefix(self) -> Line:
        return ending_of(self._first, self.width // 2)

    def _add_space(self, piece: str, style: Style | None) -> None:
        if self._exact:
            text = (self._space.text if self._space else "") + piece.replace("\t", "    ")
            self._space = Segment(text, style)
        elif self._row and self._space is None:
            self._space = Segment(" ", style)

    def _grow(self, piece: str, style: Style | None) -> None:
        self._text += piece
        self._word.append(Segment(piece, style))
        if len(self._text) > self._long:
            self._chop()
            # A word of marks that take no cells fits whatever its length; looking at all of it each time costs.
            self._long = max(self.width, _DECIDED, 2 * len(self._text))

    def _grow_wide(self, piece: str, style: Style | None) -> None:
        begin = 0
        before = self._text[-1:]
        for at, character in enumerate(piece):
            if before and _breaks(before, character):
                if at > begin:
                    self._grow(piece[begin:at], style)
                self._place()
                begin = at
            before = character
        self._grow(piece[begin:], style)

    def _place(self) -> None:
        """The word is complete: it goes into the row, or into the next."""
        if not self._word:
            return
        size = cell_len(self._text)
        space = len(self._space.text) if self._space else 0
        if self._used + space + size > self.room:
            self._chop()
            size, space = cell_len(self._text), len(self._space.text) if self._space else 0
        if self._space is not None and (self._row or self._exact):
            self._row.append(self._space)
            self._used += space
        self._row += self._styled(self._word)
        self._used += size
        self._space, self._word, self._text, self._linked = None, [], "", False
        self._long = max(self.width, _DECIDED)

    def _chop(self) -> None:
        """A word that does not fit begins a new row; one longer than a row fills as many as it needs."""
        graphemes, size = split_graphemes(self._text)
        fits = self._used + (len(self._space.text) if self._space else 0) + size <= self.room
        if fits:
            return
        if self._row:
            self._break()
        self._space = None
        begin = used = 0
        for start, _end, wide in graphemes:
            if used + wide > self.room and start > begin:
                head, self._word = cut(self._word, start - begin)
                self._row = self._styled(head)
                self._break()
                begin, used = start, 0
            used += wide
        self._text = self._text[begin:]

    def _styled(self, segments: list[Segment]) -> list[Segment]:
        if self._link is None:
            return segments
        # What has a style of its own, such as the address behind a link's words, is meant as it is.
        plain = bool(segments) and segments[0].style is None
        self._linked = self._linked or (plain and _ADDRESS.match(self._text) is not None)
        return [Segment(each.text, self._link) for each in segments] if self._linked else segments

    def _break(self) -> None:
        self._rows.append((*self._prefix(), *joined(self._row)))
        self._first = self._rest
        self._row, self._used = [], 0


def cells(line: Iterable[Segment]) -> int:
    """Columns that a line takes."""
    return cell_len("".join(segment.text for segment in line))


def cut(segments: Sequence[Segment], at: int) -> tuple[list[Segment], list[Segment]]:
    """The first `at` characters, and the others."""
    head: list[Segment] = []
    for index, segment in enumerate(segments):
        size = len(segment.text)
        if at <= size:
            if at:
                head.append(Segment(segment.text[:at], segment.style))
            tail = [Segment(segment.text[at:], segment.style)] if at < size else []
            return head, [*tail, *segments[index + 1 :]]
        head.append(segment)
        at -= size
    return head, []


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same with neighbours of one style made one, so that a line does not tell how it was split."""
    out: list[Segment] = []
    for segment in segments:
        if out and out[-1].style == segment.style:
            out[-1] = Segment(out[-1].text + segment.text, segment.style)
        elif segment.text:
            out.append(segment)
    return out


def fold(segments: Sequence[Segment], width: int, first: Line = (), rest: Line = ()) -> list[Line]:
    """A line cut into rows of `width` cells with prefixes, nothing of it lost and no space moved."""
    text = "".join(segment.text for segment in segments)
    prefix = ending_of(first, width // 2)
    room = max(1, width - cells(prefix))
    if len(text) <= room and (text.isascii() or cell_len(text) <= room):
        return [(*prefix, *joined(segments))]
    rows: list[Line] = []
    left = list(segments)
    begin = used = 0
    for start, _end, size in split_graphemes(text)[0]:
        if used + size > room and start > begin:
            head, left = cut(left, start - begin)
            rows.append((*prefix, *joined(head)))
            prefix = ending_of(rest, width // 2)
            room = max(1, width - cells(prefix))
            begin, used = start, 0
        used += size
    return [*rows, (*prefix, *joined(left))]


def clipped(segments: Sequence[Segment], width: int) -> Line:
    """At most `width` cells of a line; an ellipsis stands for what is left out."""
    rows = fold(segments, width)
    if len(rows) == 1:
        return rows[0]
    head = fold(segments, max(1, width - 1))[0]
    return (*head, Segment("\u2026", head[-1].style if head else None))


def ending_of(prefix: Line, size: int) -> Line:
    """The last `size` cells of a prefix: on a narrow screen deep nesting must leave room for words."""
    over = cells(prefix) - size
    return prefix if over <= 0 else tuple(cut(prefix, over)[1])


def wrapped(text: str, width: int, style: Style | None, first: Line = (), rest: Line = ()) -> list[Line]:
    """A whole text in rows, its spaces kept."""
    rows: list[Line] = []
    first, rest = ending_of(first, width // 2), ending_of(rest, width // 2)
    room = width - max(cells(first), cells(rest))
    for line in text.split("\n"):
        prefix = rest if rows else first
        if len(line) <= room and line.isascii() and "\t" not in line:
            # Nearly all of a long output: a line that fits needs no words.
            kept = line.rstrip(" ")
            rows.append((*prefix, Segment(kept, style)) if kept else prefix)
            continue
        wrapper = Wrapper(width, prefix, rest, exact=True)
        wrapper.feed(line, style)
        rows += wrapper.end() or [prefix]
    return rows


def _breaks(before: str, after: str) -> bool:
    """Whether a row may end between two characters of a word: beside a wide one, but nowhere within a picture."""
    size = get_character_cell_size(after)
    if size == 0 or before == JOINER or (size < 2 and get_character_cell_size(before) < 2):
        return False
    if after in _KEPT_BEHIND or before in _KEPT_BEFORE or _SKIN.match(after):
        return False
    return not (_FLAG.match(before) and _FLAG.match(after))
