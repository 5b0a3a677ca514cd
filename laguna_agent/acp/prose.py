"""A model's words as Markdown that an editor can draw without asking another machine for anything.

An image in an answer is fetched by the editor that draws it, and its address can carry away whatever the model has
read. So what would be fetched is left as text that shows its address: images (also by reference) and HTML that loads
something. Links stay links, images of the workspace stay images. Knows Markdown; must not know the protocol.

A code block is treated as all else: parsers disagree on where one ends, and a gap before an address costs little.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"(?P<image>!\[)|(?P<blank>\n[ \t]*(?=\n))|(?P<close>\]\()"
    r"|(?P<tag><(?:img|image|source|video|audio|iframe|object|embed|input|style|picture)(?![a-z0-9]))"
    r"|(?P<definition>^[ \t>*+\-\d.)]{0,12}\[[^\]\n]{1,200}\](?=:))",
    re.IGNORECASE | re.MULTILINE,
)
_BEGUN = re.compile(
    r"(?:!|\n[ \t]*|\]|<[a-z]{0,7}|^[ \t>*+\-\d.)]{1,12}|^[ \t>*+\-\d.)]{0,12}\[[^\]\n]{0,200}\]?)\Z",
    re.IGNORECASE | re.MULTILINE,
)
_NEAR = re.compile(r"\]\(<?(?!//|\\\\)[^\s:&<>()\\]{1,300}[)>\s]")
_PERHAPS_NEAR = re.compile(r"\]\(<?(?!//|\\\\)[^\s:&<>()\\]{0,300}\Z")
_TAG = re.compile(r"<[^<>]{0,500}>")
_OPEN_TAG = re.compile(r"<[^<>]{0,500}\Z")


class Prose:
    """Takes text in pieces; no split changes what comes out."""

    def __init__(self) -> None:
        self._held = self._last = ""
        self._in_image = False

    def feed(self, text: str, *, final: bool = False) -> str:
        """What `text` completes; what may yet become an image is held back."""
        base = len(self._last)
        text = self._last + self._held + text
        parts: list[str] = []
        position = base
        while (match := _TOKEN.search(text, position)) is not None:
            end = self._token(text, match, parts, position, final)
            if end is None:
                return self._rest(text, match.start(), parts, position)
            position = end
        begun = None if final else _BEGUN.search(text, position)
        return self._rest(text, begun.start() if begun else len(text), parts, position)

    def _token(self, text: str, match: re.Match[str], parts: list[str], position: int, final: bool) -> int | None:
        """Put what comes up to the end of the token; None where what follows must decide."""
        at, end, said = match.start(), match.end(), match[0]
        if match["image"]:
            self._in_image = True
        elif match["blank"]:
            self._in_image = False
        elif match["definition"]:
            said += " "
        elif match["close"] and self._in_image:
            if not final and _PERHAPS_NEAR.match(text, at):
                return None
            said = said if _NEAR.match(text, at) else "] ("
        elif match["tag"]:
            whole = _TAG.match(text, at)
            if whole is None and not final and _OPEN_TAG.match(text, at):
                return None
            if whole is None or "//" in whole[0] or ":" in whole[0]:
                said = "< " + said[1:]
        parts += (text[position:at], said)
        return end

    def _rest(self, text: str, held_from: int, parts: list[str], position: int) -> str:
        parts.append(text[position:held_from])
        self._held = text[held_from:]
        self._last = text[max(0, held_from - 1) : held_from]
        return "".join(parts)


def unfetched(text: str) -> str:
    """A whole text as `Prose` gives it."""
    return Prose().feed(text, final=True)
