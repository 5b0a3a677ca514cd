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


@dataclass(frozen=True)
class Row:
    """One line of the change. `old` and `new` are its numbers; `words` the spans that differ from its counterpart."""

    sign: Change
    text: str
    old: int = 0
    new: int = 0
    words: tuple[tuple[int, int], ...] = ()


def counts(diff: FileDiff) -> tuple[int, int]:
    """How many lines the change added and removed."""
    rows = [row for hunk in hunks(diff) for row in hunk]
    return sum(row.sign == "+" for row in rows), sum(row.sign == "-" for row in rows)


def counts_words(added: int, removed: int) -> str:
    """The numbers as they stand behind a file's name: `+3 \u22121`."""
    parts = [f"+{added:,}"] if added or not removed else []
    return " ".join([*parts, f"\u2212{removed:,}"] if removed else parts)


def diff_lines(diff: FileDiff, width: int, theme: Theme, limit: int = DIFF_ROWS) -> list[Line]:
    """The change with the file's name above it; beyond `limit` rows their number."""
    changed = hunks(diff)
    name = on_one_line(diff.path)
    what = " (new file)" if diff.old_text is None else " (deleted)" if diff.new_text is None else ""
    signs = [row.sign for hunk in changed for row in hunk]
    numbers = counts_words(signs.count("+"), signs.count("-"))
    head = [Segment(name, theme.style("path")), Segment(f"{what}  {numbers}", theme.style("dim"))]
    shown, left = body_lines(changed, diff.path, width, theme, limit)
    if left:
        shown.append((Segment(f"  \u2026 {left:,} more lines", theme.style("dim")),))
    return [*fold(head, width), *shown]


def body_lines(
    changed: Sequence[Sequence[Row]], path: str, width: int, theme: Theme, limit: int
) -> tuple[list[Line], int]:
    """At most `limit` rows of hunks, and how many lines there are beyond them."""
    last = max((max(row.old, row.new) for hunk in changed for row in hunk), default=1)
    digits = max(2, len(str(last)))
    out: list[Line] = []
    total = sum(map(len, changed))
    drawn = 0
    for index, hunk in enumerate(changed):
        if index:
            out.append(clipped([Segment(" " * (digits + 1) + "\u22ee", theme.style("hunk"))], width))
        old_code, new_code = Highlighter(lexer_of_path(path)), Highlighter(lexer_of_path(path))
        for row in hunk:
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


def hunks(diff: FileDiff) -> list[list[Row]]:
    """The lines that changed, with some around them, in groups that stand apart."""
    old, new = _lines(diff.old_text, diff.new_text), _lines(diff.new_text, diff.old_text)
    shorter = min(len(old), len(new))
    same = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    most = shorter - same
    tail = next((at for at in range(most) if old[-1 - at] != new[-1 - at]), most)
    begin = max(0, same - CONTEXT)
    left = max(0, tail - CONTEXT)
    old, new = old[begin : len(old) - left], new[begin : len(new) - left]
    first = begin + diff.line
    return [list(_rows(group, old, new, first)) for group in _groups(old, new)]


_Code = tuple[str, int, int, int, int]


def _groups(old: Sequence[str], new: Sequence[str]) -> Iterator[list[_Code]]:
    if len(old) > ROUGH and len(new) > ROUGH:
        yield [("replace", 0, len(old), 0, len(new))]
        return
    for group in SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        yield [(tag, *places) for tag, *places in group]  # type: ignore[misc]


def _rows(group: Sequence[_Code], old: Sequence[str], new: Sequence[str], first: int) -> Iterator[Row]:
    for tag, old_begin, old_end, new_begin, new_end in group:
        if tag == "equal":
            for at in range(old_end - old_begin):
                yield Row(" ", _shown(old[old_begin + at]), first + old_begin + at, first + new_begin + at)
            continue
        gone = [_shown(line) for line in old[old_begin:old_end]]
        came = [_shown(line) for line in new[new_begin:new_end]]
        # Lines are counterparts only where as many came as went; else a guess would mislead.
        words = [changed_words(*pair) for pair in zip(gone, came, strict=True)] if len(gone) == len(came) else []
        for at, text in enumerate(gone):
            yield Row("-", text, old=first + old_begin + at, words=words[at][0] if words else ())
        for at, text in enumerate(came):
            yield Row("+", text, new=first + new_begin + at, words=words[at][1] if words else ())


Spans = tuple[tuple[int, int], ...]


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
