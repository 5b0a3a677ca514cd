"""Ignore files, read as git reads them: which paths a `.gitignore` names.

Knows patterns and paths as bytes; must not know disks. A `Rules` is one ignore file and those that count less: of the
patterns that match a path the last one says, and what lies deeper counts more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": rb"0-9",
    b"graph": rb"!-~", b"lower": rb"a-z", b"print": rb" -~", b"punct": rb"!-/:-@\[-`{-~", b"space": rb" \t\n\v\f\r",
    b"upper": rb"A-Z", b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_NEVER = rb"(?!)"
MOST_PATTERNS = 10_000
"""Of one ignore file; more are not looked at."""


class Rules:
    """The patterns of one ignore file, which lies in the directory `base` (a path that ends in a slash), before those
    of `above`, where no pattern of its own matches."""

    def __init__(self, text: bytes, base: bytes, above: Rules | None = None) -> None:
        self._above = above
        self._base = len(base)
        self._patterns = list(_patterns(text))
        every = b"|".join(b"(?:%s)" % pattern.pattern for pattern, _, _ in self._patterns)
        # One expression for "none of them", which is what most paths are.
        self._any = re.compile(every, re.DOTALL) if self._patterns else None
        self._known: dict[bytes, bool] = {}

    def ignores(self, path: bytes, *, directory: bool) -> bool:
        """Whether the path is ignored, its parents aside: whoever walks does not enter an ignored directory."""
        key = path + b"/" if directory else path
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._decide(path, directory)
        return known

    def _decide(self, path: bytes, directory: bool) -> bool:
        rules: Rules | None = self
        while rules is not None:
            verdict = rules._own(path, directory)
            if verdict is not None:
                return verdict
            rules = rules._above
        return False

    def _own(self, path: bytes, directory: bool) -> bool | None:
        relative = b"/" + path[self._base :]
        if self._any is None or self._any.fullmatch(relative) is None:
            return None
        for pattern, negative, directories_only in reversed(self._patterns):
            if (directory or not directories_only) and pattern.fullmatch(relative) is not None:
                return not negative
        return None


def _patterns(text: bytes) -> Iterator[tuple[re.Pattern[bytes], bool, bool]]:
    """Of each line: the expression for a path with a slash in front, whether it takes back, whether it is for
    directories alone."""
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:MOST_PATTERNS]:
        pattern = _without_trailing_spaces(line.removesuffix(b"\r"))
        if pattern.startswith(b"#"):
            continue
        negative = pattern.startswith(b"!")
        pattern = pattern[1:] if negative else pattern
        directories_only = pattern.endswith(b"/")
        pattern = pattern[:-1] if directories_only else pattern
        if pattern:
            yield re.compile(_expression(pattern), re.DOTALL), negative, directories_only


def _without_trailing_spaces(line: bytes) -> bytes:
    stripped = line.rstrip(b" ")
    backslashes = len(stripped) - len(stripped.rstrip(b"\\"))
    # An escaped space stays.
    return stripped + b" " if backslashes % 2 and len(line) > len(stripped) else stripped


def _expression(pattern: bytes) -> bytes:
    anchored = b"/" in pattern
    try:
        body = b"".join(_pieces(pattern.removeprefix(b"/")))
    except ValueError:
        return _NEVER
    return b"/" + body if anchored else b".*/" + body


def _pieces(pattern: bytes) -> Iterator[bytes]:
    """Raises ValueError for a pattern that can match nothing."""
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            begins = at == 0 or pattern[at - 1 : at] == b"/"
            if end - at >= 2 and begins and pattern[end : end + 1] == b"/":
                yield b"(?:.*/)?"
                end += 1
            else:
                yield b".*" if end - at >= 2 and begins and end == len(pattern) else b"[^/]*"
            at = end
        elif char == b"?":
            yield b"[^/]"
            at += 1
        elif char == b"[":
            piece, at = _bracket(pattern, at + 1)
            yield piece
        elif char == b"\\":
            if at + 1 == len(pattern):
                raise ValueError("nothing follows the backslash")
            yield re.escape(pattern[at + 1 : at + 2])
            at += 2
        else:
            yield re.escape(char)
            at += 1


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The expression of a bracket whose inside begins at `at`, and where it ends. Raises ValueError for one that does
    not close."""
    negative = pattern[at : at + 1] in (b"!", b"^")
    at += negative
    begins, members = at, list[bytes]()
    while pattern[at : at + 1] != b"]" or at == begins:
        named = re.compile(rb"\[:([a-z]*):\]").match(pattern, at)
        if named:
            if named[1] not in _CLASSES:
                raise ValueError("no such class")
            members.append(_CLASSES[named[1]])
            at = named.end()
            continue
        low, at = _member(pattern, at)
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"]", b""):
            high, at = _member(pattern, at + 1)
            if low <= high:
                members.append(re.escape(low) + b"-" + re.escape(high))
        else:
            members.append(re.escape(low))
    inside = b"".join(members)
    if negative:
        return b"(?!/)[^" + inside + b"]" if inside else b"[^/]", at + 1
    return (b"(?!/)[" + inside + b"]" if inside else _NEVER), at + 1


def _member(pattern: bytes, at: int) -> tuple[bytes, int]:
    if pattern[at : at + 1] == b"\\":
        at += 1
    if at >= len(pattern):
        raise ValueError("the bracket does not close")
    return pattern[at : at + 1], at + 1


def joined(texts: Iterable[tuple[bytes, bytes]]) -> Rules | None:
    """The rules of (text, base) pairs, of which later ones count more."""
    rules: Rules | None = None
    for text, base in texts:
        rules = Rules(text, base, rules)
    return rules
