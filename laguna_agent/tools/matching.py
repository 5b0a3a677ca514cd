"""Where in a text a piece lies that a model wants replaced.

Exactly, else where it is as the model saw it (hidden characters are shown as `\\u{200B}`), else at the one place that
differs in nothing but whitespace, indentation or look-alike characters; else nowhere, and the error shows what comes
closest. Knows strings; it must not know files, tools or languages.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterator

import msgspec

from laguna_agent.code.indentation import fit
from laguna_agent.errors import ToolError
from laguna_agent.tools.similarity import closest_region
from laguna_agent.tools.text import Span
from laguna_agent.visible import Shown

_PLACES_SHOWN = 10

_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u205f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        "\u2026": "...",
    }
)
_NUMBERED = re.compile(r"^ *\d+\t")


class Match(msgspec.Struct, frozen=True):
    """What to replace. `note` is empty for an exact match, else says what was ignored to find it."""

    spans: list[Span]
    note: str = ""


def locate(text: str, old: str, new: str, *, replace_all: bool = False) -> Match:
    """The replacements that turn `old` into `new` in `text` (both with "\\n" line ends).

    ToolError, with line numbers, when `old` is there more than once or not at all. A match that is not exact must be
    unique, whatever `replace_all` says.
    """
    old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
    if not old:
        raise ToolError("`old` is empty; to make a new file or fill an empty one use write.")
    if old == new:
        raise ToolError("`old` and `new` are the same; nothing would change.")
    places = list(_occurrences(text, old))
    if len(places) == 1 or (places and replace_all):
        return Match([Span(at, at + len(old), new) for at in places])
    if places:
        raise ToolError(
            f"`old` is there {len(places)} times, at {_lines_of(text, places)}. "
            "Give more lines around it, or set replace_all."
        )
    if "\\u{" in old and (shown := Shown(text)).text != text:
        return _as_shown(text, shown, old, new, replace_all)
    found = _near_match(text, old, new)
    if found is not None:
        return found
    # Only now: a file may really hold lines that begin with a number and a tab.
    bare_old, bare_new = _without_numbers(old), _without_numbers(new)
    if bare_old != old and bare_old != bare_new:
        try:
            match = locate(text, bare_old, bare_new, replace_all=replace_all)
        except ToolError:
            match = None
        if match is not None:
            return Match(match.spans, _joined("the line numbers in `old` were ignored", match.note))
    raise ToolError(_not_found(text, old, new))


def _as_shown(text: str, shown: Shown, old: str, new: str, replace_all: bool) -> Match:
    """The match in the text as the model saw it, and back: hidden characters that `new` took from there stay."""
    match = locate(shown.text, old, new, replace_all=replace_all)
    spans: list[Span] = []
    for span in match.spans:
        raw = shown.raw_span(span.start, span.end)
        if raw is None:
            raise ToolError("`old` begins or ends within a \\u{...} that stands for one character; give all of it.")
        spans.append(Span(*raw, shown.turned_back(span.new, span.start, span.end)))
    if all(text[span.start : span.end] == span.new for span in spans):
        raise ToolError("`old` and `new` are the same; nothing would change.")
    return Match(spans, _joined("each \\u{...} was read as the character it stands for", match.note))


def _occurrences(text: str, old: str) -> Iterator[int]:
    at = text.find(old)
    while at >= 0:
        yield at
        at = text.find(old, at + len(old))


def _plain(line: str) -> str:
    if line.isascii():
        return line
    return unicodedata.normalize("NFC", line).translate(_LOOKALIKES)


# From strict to loose; at the first rule that finds anything it must be unique.
_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("whitespace at line ends and look-alike characters", lambda line: _plain(line).rstrip()),
    ("indentation", lambda line: _plain(line).strip()),
    ("whitespace", lambda line: " ".join(_plain(line).split())),
)


def _near_match(text: str, old: str, new: str) -> Match | None:
    """The unique place that a rule finds: a run of whole lines, or for a single line a part of one."""
    lines = text.split("\n")
    wanted = _without_blank_ends(old.split("\n"))
    if not wanted:
        return None
    for ignored, rule in _RULES:
        keys = [rule(line) for line in lines]
        target = [rule(line) for line in wanted]
        starts = list(_runs(keys, target))
        if len(starts) > 1:
            numbers = _numbers([start + 1 for start in starts])
            raise ToolError(
                f"`old` is nowhere exactly, and ignoring {ignored} it is at {len(starts)} places, {numbers}. "
                "Give it as it is in the file, with more lines around it."
            )
        if starts:
            return _whole_lines(lines, starts[0], wanted, new, ignored)
    return _within_a_line(lines, old, new) if len(wanted) == 1 and "\n" not in old else None


def _runs(keys: list[str], target: list[str]) -> Iterator[int]:
    """Where `target` lies in `keys`, without overlap."""
    at = 0
    while True:
        try:
            at = keys.index(target[0], at)
        except ValueError:
            return
        if keys[at : at + len(target)] == target:
            yield at
            at += len(target)
        else:
            at += 1


def _whole_lines(lines: list[str], start: int, wanted: list[str], new: str, ignored: str) -> Match:
    """Replace a run of lines: what `old` and `new` share keeps the file's own lines, the rest is indented to fit."""
    end = start + len(wanted)
    there = lines[start:end]
    replacement = _without_blank_ends(new.split("\n"))
    result: list[str] = []
    # A block is moved as a whole only when what was matched was indented otherwise.
    moved = any(_indent(a) != _indent(b) for a, b in zip(wanted, there, strict=True) if a.strip())
    fitted = fit(replacement, wanted, there) if moved else replacement
    matcher = difflib.SequenceMatcher(None, wanted, replacement, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        result += there[i1:i2] if tag == "equal" else fitted[j1:j2]
    begin = sum(len(line) + 1 for line in lines[:start])
    stop = begin + sum(len(line) + 1 for line in there) - 1
    if result:
        spans = [Span(begin, stop, "\n".join(result))]
    else:
        # Whole lines go, and so does the newline that ended them.
        last = end == len(lines)
        spans = [Span(max(0, begin - last), stop + (not last), "")]
    where = f"line {start + 1}" if len(wanted) == 1 else f"lines {start + 1}-{end}"
    fitted_note = "; the new lines were indented to fit" if moved and replacement else ""
    return Match(spans, f"`old` is not there exactly; ignoring {ignored} it is {where}{fitted_note}")


def _within_a_line(lines: list[str], old: str, new: str) -> Match | None:
    target = " ".join(_plain(old).split())
    places: list[tuple[int, int, int]] = []
    for index, line in enumerate(lines):
        # Squeezing keeps an offset for every character, too dear for lines that cannot match.
        if target not in " ".join(_plain(line).split()):
            continue
        key, offsets = _squeezed(line)
        places += [(index, offsets[at], offsets[at + len(target)]) for at in _occurrences(key, target)]
    if len(places) > 1:
        numbers = _numbers([place[0] + 1 for place in places])
        raise ToolError(
            f"`old` is nowhere exactly, and ignoring whitespace it is at {len(places)} places, {numbers}. "
            "Give it as it is in the file, with more text around it."
        )
    if not places:
        return None
    index, start, end = places[0]
    end = start + len(lines[index][start:end].rstrip())
    begin = sum(len(line) + 1 for line in lines[:index])
    note = f"`old` is not there exactly; ignoring whitespace and look-alike characters it is in line {index + 1}"
    return Match([Span(begin + start, begin + end, new.strip() if old != old.strip() else new)], note)


def _squeezed(line: str) -> tuple[str, list[int]]:
    """The line without look-alikes and with single spaces, and for each of its characters (and its end) the offset in
    the line that it stands for."""
    key: list[str] = []
    offsets: list[int] = []
    for at, character in enumerate(line):
        plain = _plain(character)
        if plain.isspace():
            if not key or key[-1] == " ":
                continue
            plain = " "
        key += plain
        offsets += [at] * len(plain)
    offsets.append(len(line))
    return "".join(key), offsets


def _without_blank_ends(lines: list[str]) -> list[str]:
    start, end = 0, len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _without_numbers(piece: str) -> str:
    lines = piece.split("\n")
    if not all(_NUMBERED.match(line) for line in lines if line.strip()):
        return piece
    return "\n".join(_NUMBERED.sub("", line) for line in lines)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _lines_of(text: str, places: list[int]) -> str:
    return _numbers([text.count("\n", 0, at) + 1 for at in places[: _PLACES_SHOWN + 1]], len(places))


def _numbers(lines: list[int], total: int | None = None) -> str:
    total = len(lines) if total is None else total
    shown = ", ".join(str(line) for line in lines[:_PLACES_SHOWN])
    return f"lines {shown}" + (f" and {total - _PLACES_SHOWN} more" if total > _PLACES_SHOWN else "")


def _not_found(text: str, old: str, new: str) -> str:
    places = list(_occurrences(text, new)) if len(new.strip()) >= 8 else []
    if len(places) == 1:
        line = text.count("\n", 0, places[0]) + 1
        return f"`old` is not in the file, but `new` already is, at line {line}: this edit seems to be done."
    return f"`old` is not in the file; nothing was changed. {closest_region(text, old)}"
