"""What stands within a paragraph, as it streams: emphasis, code, links.

A mark that opens waits for the one that closes, within a window of characters; beyond it, it is a character like any
other. So what is given out is final, depends on no split of the text, and what waits is bounded. Knows one paragraph;
not blocks, rows or widths.
"""

from __future__ import annotations

import re

from rich.segment import Segment
from rich.style import Style

from laguna_agent.terminal.theme import Theme

WINDOW = 800
"""Characters within which what opens must close."""
DEPTH = 6
"""Marks within marks; deeper ones are text."""
_SPECIAL = re.compile(r"[\\`*_\[<!]")
_ESCAPED = re.compile(r"\\[!-/:-@\[-`{-~\n]")
_MARKS = re.compile(r"\\[!-/:-@\[-`{-~]|`+|\*+|_+")
_BRACKETS = re.compile(r"\\[!-/:-@\[-`{-~]|`+|\[|\]")
_PARENTHESES = re.compile(r"\\[!-/:-@\[-`{-~]|[()\n]")
_ADDRESS_ENDS = re.compile(r"[\s<>]")
_WAIT = -1
_NEVER = -2


class Inline:
    """One paragraph, from its beginning. `base` is the style that all of it has."""

    def __init__(self, theme: Theme, base: Style | None = None) -> None:
        self._theme, self._base = theme, base
        self._pending = self._before = ""

    def feed(self, text: str) -> list[Segment]:
        """What `text` completes."""
        self._pending += text
        return self._advance(final=False)

    def end(self) -> list[Segment]:
        """The rest, at the end of the paragraph."""
        return self._advance(final=True)

    def guess(self) -> list[Segment]:
        """What waits, as it will most likely be: marks that are open close at the end."""
        return _Parse(self._theme, self._pending, self._before, final=True, guess=True).run(self._base)[0]

    def _advance(self, *, final: bool) -> list[Segment]:
        if not self._pending:
            return []
        segments, used = _Parse(self._theme, self._pending, self._before, final=final).run(self._base)
        if used:
            self._before = self._pending[used - 1]
            self._pending = self._pending[used:]
        return segments


def inline(theme: Theme, text: str, base: Style | None = None) -> list[Segment]:
    """A whole text, such as a heading or a table's cell."""
    return _Parse(theme, text, "", final=True).run(base)[0]


class _Parse:
    """One pass over a text; `before` is the character before it."""

    def __init__(
        self, theme: Theme, text: str, before: str, *, final: bool, guess: bool = False, depth: int = 0
    ) -> None:
        self._theme, self._text, self._before = theme, text, before
        self._final, self._guess, self._depth = final, guess, depth
        self._out: list[Segment] = []
        self._nothing: dict[str, int] = {}
        """Per mark, up to where it is known that none closes."""

    def run(self, style: Style | None) -> tuple[list[Segment], int]:
        """The segments, and how many characters of the text are in them."""
        text = self._text
        at = 0
        while at < len(text):
            match = _SPECIAL.search(text, at)
            stop = match.start() if match else len(text)
            if stop > at:
                self._out.append(Segment(text[at:stop], style))
            if match is None:
                return self._out, len(text)
            at = self._special(stop, style)
            if at == _WAIT:
                return self._out, stop
        return self._out, at

    def _special(self, at: int, style: Style | None) -> int:
        """Deal with what a special character begins; where to go on, or `_WAIT`."""
        text = self._text
        match text[at]:
            case "\\":
                if at + 1 == len(text) and not self._final:
                    return _WAIT
                if _ESCAPED.match(text, at):
                    return self._literal(at + 1, at + 2, style)
                return self._literal(at, at + 1, style)
            case "!":
                if at + 1 == len(text) and not self._final:
                    return _WAIT
                # An image is shown as what it says and where it is.
                end = self._link_end(at + 1)
                return _WAIT if end == _WAIT else at + 1 if end >= 0 else self._literal(at, at + 1, style)
            case "<":
                return self._address(at, style)
            case "[":
                return self._link(at, style)
        end = at
        while end < len(text) and text[end] == text[at]:
            end += 1
        if end - at > WINDOW:
            return self._literal(at, at + WINDOW, style)
        if end == len(text) and not self._final:
            return _WAIT
        return self._code(at, end, style) if text[at] == "`" else self._emphasis(at, end, style)

    def _literal(self, begin: int, end: int, style: Style | None) -> int:
        self._out.append(Segment(self._text[begin:end], style))
        return end

    def _styled(self, style: Style | None, name: str) -> Style:
        own = self._theme.style(name)
        return own if style is None else style + own

    def _inner(self, begin: int, end: int, style: Style) -> None:
        if self._depth >= DEPTH:
            self._out.append(Segment(self._text[begin:end], style))
            return
        inner = _Parse(
            self._theme, self._text[begin:end], self._char(begin - 1), final=True, guess=self._guess,
            depth=self._depth + 1,
        )  # fmt: skip
        self._out += inner.run(style)[0]

    def _char(self, at: int) -> str:
        return self._before if at < 0 else self._text[at : at + 1]

    def _window(self, at: int) -> tuple[int, bool]:
        """Where the search for what closes the mark at `at` ends, and whether nothing that comes can change it."""
        end = at + WINDOW
        return min(end, len(self._text)), self._final or len(self._text) > end

    def _code(self, at: int, begin: int, style: Style | None) -> int:
        end = self._code_end(at, begin)
        if end == _WAIT:
            return _WAIT
        if end == _NEVER:
            if not self._guess:
                return self._literal(at, begin, style)
            end = len(self._text) + begin - at
        code = self._text[begin : end - (begin - at)]
        if code.startswith(" ") and code.endswith(" ") and code.strip():
            code = code[1:-1]
        self._out.append(Segment(code, self._styled(style, "code")))
        return min(end, len(self._text))

    def _code_end(self, at: int, begin: int) -> int:
        """Behind the backticks that close those of [at, begin)."""
        stop, certain = self._window(at)
        position = begin
        while (position := self._text.find("`", position, stop)) >= 0:
            end = position
            while end < stop and self._text[end] == "`":
                end += 1
            if end == stop and not certain:
                return _WAIT
            if end - position == begin - at:
                return end
            position = end
        return _NEVER if certain else _WAIT

    def _emphasis(self, at: int, begin: int, style: Style | None) -> int:
        size = begin - at
        after = self._text[begin : begin + 1]
        if self._guess and not after:
            return begin
        if size > 3 or after.isspace() or not after or _is_word(self._char(at - 1)):
            return self._literal(at, begin, style)
        stop, certain = self._window(at)
        mark = self._text[at:begin]
        end, behind = (_NEVER, 0) if certain and self._nothing.get(mark, -1) >= stop else self._closer(begin, mark, at)
        if end == _WAIT:
            return _WAIT
        if end == _NEVER:
            self._nothing[mark] = max(stop, self._nothing.get(mark, -1))
            if not self._guess:
                return self._literal(at, begin, style)
            end = behind = len(self._text)
        elif mark == "__" and self._text[begin:end].isidentifier():
            # `__init__` is a name far more often than it is an emphasis.
            return self._literal(at, behind, style)
        strong, slanted = size != 1, size != 2
        inner = self._styled(style, "strong") if strong else style
        self._inner(begin, end, self._styled(inner, "emphasis") if slanted else inner or Style.null())
        return behind

    def _closer(self, begin: int, mark: str, at: int) -> tuple[int, int]:
        """Where what is emphasised ends, and where the text behind it goes on."""
        stop, certain = self._window(at)
        text, other, position = self._text, False, begin
        while match := _MARKS.search(text, position, stop):
            position = match.end()
            run = match[0]
            if run[0] == "\\":
                continue
            if match.end() == len(text) and not certain:
                return _WAIT, 0
            if run[0] == "`":
                end = self._code_end(match.start(), match.end())
                if end == _WAIT:
                    return _WAIT, 0
                position = end if 0 <= end <= stop else position
            elif run[0] == mark[0]:
                if closed := _closing(match, len(mark), other, text):
                    return closed
                other ^= len(run) + len(mark) == 3
        return (_NEVER, 0) if certain else (_WAIT, 0)

    def _address(self, at: int, style: Style | None) -> int:
        text = self._text
        begins = text[at + 1 : at + 9]
        if not ("https://".startswith(begins) or begins.startswith(("http://", "https://"))):
            return self._literal(at, at + 1, style)
        stop, certain = self._window(at)
        match = _ADDRESS_ENDS.search(text, at + 1, stop)
        if match is None and not certain:
            return _WAIT
        if match is None or match[0] != ">" or not begins.startswith("http"):
            return self._literal(at, at + 1, style)
        self._out.append(Segment(text[at + 1 : match.start()], self._styled(style, "link")))
        return match.end()

    def _link(self, at: int, style: Style | None) -> int:
        end = self._link_end(at)
        if end == _WAIT:
            return _WAIT
        if end == _NEVER:
            return self._literal(at, at + 1, style)
        middle = self._link_text_end(at)
        words, address = self._text[at + 1 : middle], self._text[middle + 2 : end - 1]
        if words.strip() and words != address:
            self._inner(at + 1, middle, self._styled(style, "link"))
            if address:
                self._out.append(Segment(f" ({address})", self._styled(style, "dim")))
        else:
            self._out.append(Segment(address, self._styled(style, "link")))
        return end

    def _link_text_end(self, at: int) -> int:
        """Where the bracket that opens at `at` closes."""
        stop, certain = self._window(at)
        depth, position = 0, at
        while match := _BRACKETS.search(self._text, position, stop):
            position = match.end()
            if match[0][0] == "`":
                end = self._code_end(match.start(), match.end())
                if end == _WAIT:
                    return _WAIT
                position = end if 0 <= end <= stop else position
            elif match[0] == "[":
                depth += 1
                if depth > DEPTH:
                    return _NEVER
            elif match[0] == "]":
                depth -= 1
                if depth == 0:
                    return match.start()
        return _NEVER if certain else _WAIT

    def _link_end(self, at: int) -> int:
        """Behind `[words](address)` that begins at `at`."""
        if not self._char(at) and not self._final:
            return _WAIT
        if self._char(at) != "[":
            return _NEVER
        middle = self._link_text_end(at)
        if middle < 0:
            return middle
        if middle + 1 == len(self._text) and not self._final:
            return _WAIT
        if self._char(middle + 1) != "(":
            return _NEVER
        stop, certain = self._window(at)
        depth, position = 0, middle + 1
        while match := _PARENTHESES.search(self._text, position, stop):
            position = match.end()
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if match[0] == "\n" or depth > DEPTH:
                return _NEVER
            if depth == 0:
                return match.end()
        return _NEVER if certain else _WAIT


def _closing(match: re.Match[str], size: int, other: bool, text: str) -> tuple[int, int] | None:
    """What a run of marks closes for an opening one of `size`; `other` says whether one within it, of the other size,
    is open."""
    begin, end, run = match.start(), match.end(), len(match[0])
    if text[begin - 1].isspace() or _is_word(text[end : end + 1]):
        return None
    if run == size:
        return begin, end
    if run < size or size == 3 or (run == 2 and size == 1):
        return None
    if run == 3 and other:
        return end - size, end
    return begin, begin + size


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()
