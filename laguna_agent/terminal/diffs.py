"""Changes of files, side by side with their line numbers: what went is marked -, what came is marked +.

Knows one `FileDiff` and how it looks in a width; must not know who changed the file. Used by cards, permission
questions and `/diff` alike. The colours of the two sides help, the marks tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from rich.segment import Segment
from rich.style import Style

from laguna_agent.event_lines import on_one_line
from laguna_agent.messages import FileDiff
from laguna_agent.terminal.highlight import Highlighter, lexer_of_path
from laguna_agent.terminal.lines import Line
from laguna_agent.terminal.theme import Theme
from laguna_agent.terminal.wrapping import clipped, cut, fold
from laguna_agent.visible import visible_each

DIFF_ROWS = 60
CONTEXT = 3
WORDS_CAP = 500
"""Characters of the longest line whose changed words are looked for."""
ROUGH = 4_000
"""Lines that differ on both sides beyond which they are not matched one by one: it would take seconds."""
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")

Change = Literal[" ", "-", "+"]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """One line of the change. `old` and `new` are its numbers; `words` the spans that differ from its counterpart."""

    sign: Change
    text: str
    old: int = 0
    new: int = 0
    words: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Hunk:
    """Lines that changed together, with some around them. `codes` are difflib's, over `old` and `new`, whose first
    lines have the number `first`. Its rows are made when they are drawn: of most changes few are."""

    codes: Sequence[tuple[str, int, int, int, int]]
    old: Sequence[str]
    new: Sequence[str]
    first: int

    @property
    def added(self) -> int:
        return sum(end - begin for tag, _, _, begin, end in self.codes if tag != "equal")

    @property
    def removed(self) -> int:
        return sum(end - begin for tag, begin, end, _, _ in self.codes if tag != "equal")

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.added + self.removed + sum(end - begin for tag, begin, end, _, _ in self.codes if tag == "equal")

    def rows(self) -> Iterator[Row]:
        """Its rows, from the top."""
        for tag, old_begin, old_end, new_begin, new_end in self.codes:
            if tag == "equal":
                for at in range(old_end - old_begin):
                    numbers = self.first + old_begin + at, self.first + new_begin + at
                    yield Row(" ", _shown(self.old[old_begin + at]), *numbers)
                continue
            # Lines are counterparts only where as many came as went; else a guess would mislead.
            paired = old_end - old_begin == new_end - new_begin
            for at in range(old_begin, old_end):
                words = self._words(at, new_begin + at - old_begin)[0] if paired else ()
                yield Row("-", _shown(self.old[at]), old=self.first + at, words=words)
            for at in range(new_begin, new_end):
                words = self._words(old_begin + at - new_begin, at)[1] if paired else ()
                yield Row("+", _shown(self.new[at]), new=self.first + at, words=words)

    def _words(self, old: int, new: int) -> tuple[Spans, Spans]:
        return changed_words(_shown(self.old[old]), _shown(self.new[new]))


def counts(diff: FileDiff) -> tuple[int, int]:
    """How many lines the change added and removed."""
    changed = hunks(diff)
    return sum(hunk.added for hunk in changed), sum(hunk.removed for hunk in changed)


def counts_words(added: int, removed: int) -> str:
    """The numbers as they stand behind a file's name: `+3 \u22121`."""
    parts = [f"+{added:,}"] if added or not removed else []
    return " ".join([*parts, f"\u2212{removed:,}"] if removed else parts)


def diff_lines(diff: FileDiff, width: int, theme: Theme, limit: int = DIFF_ROWS) -> list[Line]:
    """The change with the file's name above it; beyond `limit` rows their number."""
    changed = hunks(diff)
    added, removed = sum(hunk.added for hunk in changed), sum(hunk.removed for hunk in changed)
    name = on_one_line(diff.path).expandtabs(1)
    what = " (new file)" if diff.old_text is None else " (deleted)" if diff.new_text is None else ""
    numbers = f"{what}  {counts_words(added, removed)}"
    head = [Segment(name, theme.style("path")), Segment(numbers, theme.style("dim"))]
    shown, left = body_lines(changed, diff.path, width, theme, limit)
    if left:
        shown.append((Segment(f"  \u2026 {left:,} more lines", theme.style("dim")),))
    return [*fold(head, width), *shown]


def body_lines(changed: Sequence[Hunk], path: str, width: int, theme: Theme, limit: int) -> tuple[list[Line], int]:
    """At most `limit` rows of hunks, and how many lines there are beyond them."""
    digits = max(
        2, len(str(max((hunk.first + max(hunk.codes[-1][2], hunk.codes[-1][4]) - 1 for hunk in changed), default=1)))
    )
    out: list[Line] = []
    total = sum(hunk.size for hunk in changed)
    drawn = 0
    for index, hunk in enumerate(changed):
        if index:
            out.append(clipped([Segment(" " * (digits + 1) + "\u22ee", theme.style("hunk"))], width))
        old_code, new_code = Highlighter(lexer_of_path(path)), Highlighter(lexer_of_path(path))
        for row in hunk.rows():
            # Of a line that fills the screen alone no more than that is looked at.
            text = row.text[: (limit + 1) * width]
            code = (old_code if row.sign == "-" else new_code).line(text, theme)
            if row.sign == " ":
                old_code.line(text, theme)
            out += _drawn(row, code, digits, width, theme)
            if len(out) > limit:
                return out[:limit], total - drawn
            drawn += 1
    return out, 0


def hunks(diff: FileDiff) -> list[Hunk]:
    """The lines that changed, with some around them, in groups that stand apart."""
    old, new = _lines(diff.old_text, diff.new_text), _lines(diff.new_text, diff.old_text)
    shorter = min(len(old), len(new))
    same = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    most = shorter - same
    tail = next((at for at in range(most) if old[-1 - at] != new[-1 - at]), most)
    begin = max(0, same - CONTEXT)
    left = max(0, tail - CONTEXT)
    old, new = old[begin : len(old) - left], new[begin : len(new) - left]
    if len(old) > ROUGH and len(new) > ROUGH:
        return [Hunk([("replace", 0, len(old), 0, len(new))], old, new, begin + diff.line)]
    groups = SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT)
    return [Hunk(group, old, new, begin + diff.line) for group in groups]


def changed_words(old: str, new: str) -> tuple[Spans, Spans]:
    """Which characters of each of two lines are in words that the other has not; none where little is the same."""
    if len(old) > WORDS_CAP or len(new) > WORDS_CAP:
        return (), ()
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    same = sum(len("".join(before[a : a + size]).strip()) for a, _, size in matcher.get_matching_blocks())
    if 4 * same < len(old.strip()) + len(new.strip()):
        return (), ()
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    return (
        tuple(_span(before, begin, end) for _, begin, end, _, _ in codes if end > begin),
        tuple(_span(after, begin, end) for _, _, _, begin, end in codes if end > begin),
    )


def _span(words: Sequence[str], begin: int, end: int) -> tuple[int, int]:
    start = sum(map(len, words[:begin]))
    return start, start + sum(map(len, words[begin:end]))


def _drawn(row: Row, code: Sequence[Segment], digits: int, width: int, theme: Theme) -> list[Line]:
    """A line in as many rows as it needs; its numbers stand before the first."""
    numbers = (
        f"{row.old or '':>{digits}} {row.new or '':>{digits}} " if width >= 40 else f"{row.new or row.old:>{digits}} "
    )
    dim = theme.style("dim")
    if row.sign == " " and not row.text:
        return fold([Segment(numbers.rstrip(), dim)], width)
    if row.sign == " ":
        return fold(code, width, (Segment(numbers + "  ", dim),), (Segment(" " * (len(numbers) + 2)),))
    side = "added" if row.sign == "+" else "removed"
    style = theme.style(side)
    tinted = [Segment(part.text, part.style + style if part.style and style.bgcolor else style) for part in code]
    tinted = _emphasised(tinted, row.words, theme.style(f"{side}.word"))
    return fold(
        tinted,
        width,
        (Segment(numbers, dim), Segment(row.sign + " ", style)),
        (Segment(" " * len(numbers)), Segment("  ", style)),
    )


def _emphasised(segments: Sequence[Segment], spans: Spans, style: Style) -> list[Segment]:
    out: list[Segment] = []
    left, at = list(segments), 0
    for begin, end in spans:
        head, left = cut(left, begin - at)
        word, left = cut(left, end - begin)
        out += [*head, *(Segment(part.text, part.style + style if part.style else style) for part in word)]
        at = end
    return [*out, *left]


def _shown(line: str) -> str:
    # Each character of a run is shown: lines that differ must differ to the eye.
    return visible_each(line).replace("\f", "\\u{C}").replace("\r", "\\u{D}").expandtabs(4)


def _lines(text: str | None, other: str | None) -> list[str]:
    """The lines of one side. Carriage returns are left out where both sides have them; else they are the change."""
    if not text:
        return []
    if "\r\n" in text and (not other or "\r\n" in other):
        text = text.replace("\r\n", "\n")
    # Not `splitlines`: a character that ends lines elsewhere is to be seen where it is.
    return text.removesuffix("\n").split("\n")
