"""Text files as they are on disk: encoding, byte-order mark and line ends, kept through an edit.

Models see and write "\\n"; what a file really holds is decided here, and whatever an edit does not touch keeps its
bytes. Knows bytes and strings; it must not know paths or tools.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left

import msgspec

from laguna_agent.errors import ToolError

_MARKS = (
    # UTF-32's mark begins with UTF-16's, so it is asked first.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b\b")

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "zip archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"\x7fELF", "ELF program or library"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"\xca\xfe\xba\xbe", "Java class file"),
    (b"\0asm", "WebAssembly module"),
)


class Span(msgspec.Struct, frozen=True):
    """A replacement in `TextFile.text`: what lies in [start, end) gives way to `new`."""

    start: int
    end: int
    new: str


class TextFile(msgspec.Struct, frozen=True):
    """A decoded file. `text` has "\\n" for every "\\r\\n"; a lone "\\r" stays."""

    text: str
    encoding: str = "utf-8"
    mark: bytes = b""
    newline: str = "\n"
    """What most lines end with; new lines get it."""
    exact: str | None = None
    """The text with its own line ends, where those are not all `newline`."""

    def encode(self, text: str) -> bytes:
        """The bytes of a whole new content, in this file's encoding, mark and line ends.

        ToolError when the encoding has no place for a character.
        """
        return self.mark + self._encoded(self._ends(text))

    def splice(self, spans: list[Span]) -> bytes:
        """The file's bytes with each span (in order, apart from each other) replaced; everything else stays as it is,
        mixed line ends included."""
        source = self.text if self.exact is None else self.exact
        # Offsets in `text` are short by one for every CR that was taken out before them.
        shifts = [] if self.exact is None else _crlf_offsets(self.exact)
        parts: list[str] = []
        done = 0
        for span in spans:
            start = span.start + bisect_left(shifts, span.start)
            end = span.end + bisect_left(shifts, span.end)
            parts += (self._kept(source[done:start]), self._ends(span.new))
            done = end
        return self.mark + self._encoded("".join(parts) + self._kept(source[done:]))

    def _kept(self, text: str) -> str:
        return text.replace("\n", "\r\n") if self.exact is None and self.newline == "\r\n" else text

    def _ends(self, text: str) -> str:
        if self.newline == "\n":
            return text
        return text.replace("\r\n", "\n").replace("\n", "\r\n")

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode(self.encoding)
        except UnicodeEncodeError as error:
            character = text[error.start]
            raise ToolError(
                f"The file is {self.encoding} and cannot hold the character {character!r} (U+{ord(character):04X}); "
                "use another one, or convert the file first."
            ) from None


def decode(data: bytes) -> TextFile | None:
    """The file as text, or None when it is not text: UTF-8/16/32 by byte-order mark, else UTF-8, else Latin-1."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return _split_ends(data[len(mark) :].decode(encoding), encoding, mark)
            except UnicodeDecodeError:
                return None
    if is_binary(data):
        return None
    try:
        return _split_ends(data.decode("utf-8"), "utf-8", b"")
    except UnicodeDecodeError:
        return _split_ends(data.decode("latin-1"), "latin-1", b"")


def is_binary(data: bytes) -> bool:
    """Whether the first 8 KiB say that this is no text: a NUL, or many control characters."""
    sample = data[:8192]
    controls = sum(byte < 32 and byte not in _TEXT_CONTROLS for byte in sample)
    return b"\0" in data or controls * 10 > len(sample)


def media_type(data: bytes) -> str:
    """What a binary file is, by its first bytes; "" where they say nothing."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((name for signature, name in _SIGNATURES if data.startswith(signature)), "")


def _split_ends(exact: str, encoding: str, mark: bytes) -> TextFile:
    pairs, newlines = exact.count("\r\n"), exact.count("\n")
    if not pairs:
        return TextFile(exact, encoding, mark)
    newline = "\r\n" if pairs * 2 > newlines else "\n"
    text = exact.replace("\r\n", "\n")
    uniform = newline == "\r\n" and text.replace("\n", "\r\n") == exact
    return TextFile(text, encoding, mark, newline, None if uniform else exact)


def _crlf_offsets(exact: str) -> list[int]:
    """For every "\\r\\n", the offset after which the text without CRs runs behind, in that text's own offsets."""
    offsets: list[int] = []
    at = exact.find("\r\n")
    while at >= 0:
        offsets.append(at - len(offsets))
        at = exact.find("\r\n", at + 2)
    return offsets
