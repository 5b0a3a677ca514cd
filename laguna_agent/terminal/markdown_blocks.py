"""What a line of markdown is: the containers it stands in, and the kind of block it belongs to.

Knows lines and the containers that are open; must not know what was drawn. It follows CommonMark where a stream allows
it, and models where they do not: a fence closes wherever its mark stands, a deeply indented list is a list, line ends
stay. There are no underlined headings and no lines of HTML: both would change rows that are given out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NESTING = 16
"""Quotes and items within one another; what is deeper is text."""
Kind = Literal["blank", "paragraph", "heading", "rule", "fence", "table", "indented", "code"]

_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)])( +(?=\S)|\s*$)")
_RULE = re.compile(r" *([-*_])(?: *\1){2,} *$")
_HEADING = re.compile(r" {0,3}(#{1,6})(?: |$)")
_FENCE = re.compile(r" *(`{3,})([^`]*)$| *(~{3,})(.*)$")
_BLANK = re.compile(r"\s*$")
# A line that begins so is text, whatever follows.
_TEXT = re.compile(
    r"(?: |>|[-*+] |\d{1,9}[.)] )*"
    r"(?:[^\s>|`~#*+\-_\d\[\\]|\\.|`{1,2}[^`]|~{1,2}[^~]|#{1,6}[^#\s]|#{7}|\*{1,3}[^*\s]|_{1,3}[^_\s]|-[^-\s]|\+[^\s]"
    r"|\d{1,9}[^\d.)]|\d{1,9}[.)]\S|\d{10}|\[(?:[^ xX]|[ xX](?:[^\]]|\](?:\S| \S))))"
)


@dataclass(eq=False)
class Container:
    """A quote or an item of a list that is open. `indent` is what an item's lines have before their text; `marker` is
    shown before the first row of an item."""

    kind: Literal["quote", "item"]
    indent: int = 0
    marker: str = ""
    shown: bool = False


@dataclass(frozen=True)
class Fence:
    """The code block that is open: what closes it, and what its lines are indented by."""

    mark: str
    indent: int = 0

    def closes(self, line: str) -> bool:
        """Whether a line, containers or not, ends it: models forget how deep they are."""
        text = line.strip(" >")
        return len(text) >= len(self.mark) and not text.strip(self.mark[0])


@dataclass(frozen=True)
class Reading:
    """What a line is. `matched` of the open containers go on, `new` ones begin; `rest` is its text, `level` of a
    heading, `info` of a fence."""

    kind: Kind
    matched: int
    rest: str = ""
    new: tuple[Container, ...] = ()
    level: int = 0
    info: str = ""


def is_text(line: str) -> bool:
    """Whether an unfinished line is text of a paragraph, however it goes on."""
    return _TEXT.match(line) is not None


def read_line(line: str, containers: Sequence[Container], leaf: str, fence: Fence | None) -> Reading:
    """What `line`, without its end and tabs, is, where `leaf` is the kind of block that is open ("" for none)."""
    matched, rest = _matched(line, containers)
    if fence is not None:
        if fence.closes(rest if matched == len(containers) else line):
            return Reading("fence", matched)
        if all(container.kind == "item" for container in containers[matched:]):
            return Reading("code", len(containers), rest)
    inside = leaf == "paragraph" and matched == len(containers)
    new: list[Container] = []
    while not _BLANK.match(rest) and matched + len(new) < NESTING:
        quote, item = _QUOTE.match(rest), _ITEM.match(rest)
        if quote:
            new.append(Container("quote"))
            rest = rest[quote.end() :]
        elif item and not _RULE.match(rest) and _may_begin(item, rest, containers, inside and not new):
            spaces = len(item[3]) if 1 <= len(item[3]) <= 4 and item.end() < len(rest) else 1
            new.append(Container("item", len(item[1]) + len(item[2]) + spaces, _marker(item[2])))
            rest = rest[len(item[1]) + len(item[2]) + spaces :]
        else:
            break
    listed = any(container.kind == "item" for container in (*containers[:matched], *new))
    reading = _leaf(rest, matched, tuple(new), indented=not listed and leaf != "paragraph")
    if reading.kind == "paragraph" and not new and matched < len(containers) and leaf == "paragraph":
        return Reading("paragraph", len(containers), rest)
    return reading


def _leaf(rest: str, matched: int, new: tuple[Container, ...], *, indented: bool) -> Reading:
    if _BLANK.match(rest):
        return Reading("blank", matched, "", new)
    if indented and rest.startswith("    "):
        return Reading("indented", matched, rest[4:], new)
    if _RULE.match(rest):
        return Reading("rule", matched, "", new)
    if heading := _HEADING.match(rest):
        return Reading("heading", matched, _without_closing(rest[heading.end() :].strip()), new, level=len(heading[1]))
    if fence := _FENCE.match(rest):
        return Reading("fence", matched, rest, new, info=(fence[2] or fence[4] or "").strip())
    text = rest.lstrip(" ")
    return Reading("table" if text.startswith("|") else "paragraph", matched, text, new)


def _without_closing(text: str) -> str:
    """A heading's text without the marks that may close it."""
    bare = text.rstrip("#")
    return bare.rstrip() if not bare or bare[-1] in " \t" else text


def fence_of(rest: str) -> Fence:
    """The fence that a line opens."""
    text = rest.lstrip(" ")
    return Fence(text[: len(text) - len(text.lstrip(text[0]))], len(rest) - len(text))


def _matched(line: str, containers: Sequence[Container]) -> tuple[int, str]:
    """How many of the containers go on in the line, and what is left of it."""
    blank = _BLANK.match(line) is not None
    for index, container in enumerate(containers):
        if container.kind == "quote":
            quote = _QUOTE.match(line)
            if not quote:
                return index, line
            line = line[quote.end() :]
            blank = _BLANK.match(line) is not None
        elif blank or line.startswith(" " * container.indent):
            line = line[container.indent :]
        else:
            return index, line
    return len(containers), line


def _may_begin(item: re.Match[str], rest: str, containers: Sequence[Container], inside: bool) -> bool:
    """Whether an item may stand here: in the middle of a paragraph a number other than 1 is a number."""
    if len(item[1]) > 3 and not any(container.kind == "item" for container in containers):
        return False
    if not inside:
        return True
    return item.end() < len(rest) and (not item[2][0].isdigit() or item[2][:-1] == "1")


def _marker(mark: str) -> str:
    return f"{mark} " if mark[0].isdigit() else "\u2022 "
